"""References are read by Docker's rules, and what is wrong with one is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nydusify.errors import UsageError
from nydusify.oci.reference import Reference

HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

GOOD = {
    "alpine": "docker.io/library/alpine:latest",
    "alpine:3.19": "docker.io/library/alpine:3.19",
    "user/app": "docker.io/user/app:latest",
    "docker.io/alpine": "docker.io/library/alpine:latest",
    "docker.io/user/app:x": "docker.io/user/app:x",
    "index.docker.io/library/alpine": "docker.io/library/alpine:latest",
    "localhost/app": "localhost/app:latest",
    "localhost:5000/app": "localhost:5000/app:latest",
    "localhost:5000/a/b/c:v1.0-rc_1": "localhost:5000/a/b/c:v1.0-rc_1",
    "app:5000": "docker.io/library/app:5000",
    "127.0.0.1:5000/app": "127.0.0.1:5000/app:latest",
    "[::1]:5000/app:t": "[::1]:5000/app:t",
    "[fe80::1]/app": "[fe80::1]/app:latest",
    "registry.test/a__b/c-d/e.f": "registry.test/a__b/c-d/e.f:latest",
    "Host/app": "Host/app:latest",
    f"app@sha256:{HEX}": f"docker.io/library/app@sha256:{HEX}",
    f"registry.test/app:v1@sha256:{HEX}": f"registry.test/app:v1@sha256:{HEX}",
    f"registry.test:443/app@sha512:{HEX}{HEX}": f"registry.test:443/app@sha512:{HEX}{HEX}",
}

BAD = {
    "": "names no repository",
    "/app": "part of a repository name",
    "registry.test/": "names no repository",
    "registry.test//app": "part of a repository name",
    "user/App": "no capital letters",
    "app:": "is not a tag",
    "app:.hidden": "is not a tag",
    f"app:{'x' * 129}": "is not a tag",
    "app@": "digest",
    "app@sha256:abc": "digest",
    f"app@md5:{HEX[:32]}": "digest",
    f"app@sha256:{HEX.upper()}": "digest",
    HEX: "image id",
    "https://registry.test/app": "URL",
    "registry.test:99999/app": "not a port",
    "registry.test:/app": "not a registry",
    "-bad-.test/app": "not a registry",
    "[::1/app": "not a registry",
    "app name": "part of a repository name",
    "app\n": "part of a repository name",
    "äpp": "part of a repository name",
    f"registry.test/{'a' * 256}": "longer than 255",
    "a___b": "part of a repository name",
}


@pytest.mark.parametrize("text", GOOD)
def test_a_reference_is_read_as_docker_reads_it(text: str) -> None:
    assert str(Reference.parse(text)) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_reference_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(UsageError, match=BAD[text]):
        Reference.parse(text)


def test_the_parts_of_a_reference() -> None:
    reference = Reference.parse(f"localhost:5000/a/b:v1@sha256:{HEX}")

    assert (reference.registry, reference.repository, reference.tag) == ("localhost:5000", "a/b", "v1")
    assert reference.identifier == f"sha256:{HEX}"
    assert Reference.parse("a/b").identifier == "latest"


@pytest.mark.parametrize("text", ["https://user:secret@registry.test/app", "user:secret@registry.test/app"])
def test_a_password_in_a_reference_is_not_repeated_in_the_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Reference.parse(text)

    assert "secret" not in str(caught.value)


def test_a_suffix_goes_behind_the_tag() -> None:
    assert str(Reference.parse("app").with_suffix("-nydus")) == "docker.io/library/app:latest-nydus"
    assert str(Reference.parse("r.test/app:v1").with_suffix("-nydus")) == "r.test/app:v1-nydus"


def test_a_suffix_is_refused_for_a_digest_and_when_it_makes_no_tag() -> None:
    with pytest.raises(UsageError, match="suffix"):
        Reference.parse(f"app@sha256:{HEX}").with_suffix("-nydus")
    with pytest.raises(UsageError, match="not a tag"):
        Reference.parse("app").with_suffix("/nydus")
    with pytest.raises(UsageError, match="empty"):
        Reference.parse("app").with_suffix("")


def test_another_tag_drops_the_digest() -> None:
    assert str(Reference.parse(f"r.test/app@sha256:{HEX}").with_tag("v2")) == "r.test/app:v2"


@given(st.text(max_size=80) | st.from_regex(r"[a-z.:@/\[\]-]{0,30}", fullmatch=True))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except UsageError:
        return
    assert Reference.parse(str(reference)) == reference
