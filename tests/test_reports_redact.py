"""No report, and no message that passes the same helper, shows a password, a token or a signature."""

import time
from dataclasses import fields
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nydusify.reports import ConversionRow, LayerRow, redact

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://user:hunter2@registry.test/v2/", "https://***@registry.test/v2/"),
        ("https://hunter2@registry.test/v2/", "https://***@registry.test/v2/"),
        ("https://user:hun@ter/2@registry.test:5000/v2/", "https://***@registry.test:5000/v2/"),
        ("user:hunter2@registry.test/app:1", "***@registry.test/app:1"),
        (f"pull https://u:hunter2@registry.test/app@sha256:{HEX}", f"pull https://***@registry.test/app@sha256:{HEX}"),
        ('Get "https://u:hunter2@registry.test/v2/": EOF', 'Get "https://***@registry.test/v2/": EOF'),
        (
            "GET https://cdn.test/blob?X-Amz-Signature=hunter2&digest=sha256:ab",
            "GET https://cdn.test/blob?X-Amz-Signature=***&digest=sha256:ab",
        ),
        ("Authorization: Bearer hunter2.x.y", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic aHVudGVyMg=='}", "{'Authorization': 'Basic ***'}"),
        ('{"access_key_secret": "hunter2", "bucket": "b"}', '{"access_key_secret": "***", "bucket": "b"}'),
        ("AWS_SECRET_ACCESS_KEY=hunter2 is wrong", "AWS_SECRET_ACCESS_KEY=*** is wrong"),
    ],
)
def test_secrets_are_masked(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        f"registry.test:5000/team/app:1@sha256:{HEX}",
        f"https://registry.test:5000/v2/app/manifests/sha256:{HEX}",
        "https://registry.test/v2/app/blobs/uploads/?mount=sha256:ab&from=base",
        "/var/lib/images/app@2.tar",
        "invalid token: the server said 401",
        "two  spaces\tand a tab stay",
        "",
    ],
)
def test_text_without_secrets_stays(text: str) -> None:
    assert redact(text) == text


def test_long_hostile_text_takes_no_long_time() -> None:
    texts = ["@" * 200_000, "a:" * 100_000 + "@", "?a=b" * 50_000, "token" * 40_000, f"@sha256:{HEX}" * 3_000]
    started = time.process_time()
    short = [redact(text[:10_000]) for text in texts]
    one = time.process_time() - started
    long = [redact(text) for text in texts]
    twenty = time.process_time() - started - one

    assert len(short) == len(long)
    assert twenty < 200 * max(one, 0.005)  # 20 times the text: a quadratic helper needs 400 times the time


SECRET = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C"), exclude_characters="@"), min_size=4)


@given(user=st.from_regex(r"[a-z]{1,8}", fullmatch=True), secret=SECRET, scheme=st.sampled_from(["https://", ""]))
def test_no_field_of_a_row_holds_the_userinfo_of_a_url(user: str, secret: str, scheme: str) -> None:
    url = f"{scheme}{user}:Q{secret}Q@registry.test/app:1"
    common = {
        "started_at": datetime(2026, 1, 1, tzinfo=UTC),
        "fs_version": 6,
        "chunk_size_bytes": 4096,
        "layer_index": 0,
        "layer_bytes": 1,
    }
    for kind in (ConversionRow, LayerRow):
        texts = {field.name: f"failed at {url}, sorry" for field in fields(kind) if "str" in str(field.type)}
        literal = {"verdict": f"{url}", "origin": f"{url}"}
        names = {field.name for field in fields(kind)}
        row = kind(**{name: value for name, value in {**common, **texts, **literal}.items() if name in names})

        assert f"Q{secret}Q" not in repr(row)
        assert row.source == f"failed at {scheme}***@registry.test/app:1, sorry"


def test_a_text_is_cut_after_it_was_masked() -> None:
    """Cutting first could part a password from the ``@`` that shows what it is."""
    row = ConversionRow(
        run_id="r",
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        source="s",
        target="t",
        fs_version=6,
        compressor="zstd",
        digester="blake3",
        chunk_size_bytes=4096,
        builder_version="0",
        verdict="failed",
        error_message="x" * 1970 + " https://user:hunter2" + "y" * 100 + "@registry.test/",
    )

    assert row.error_message is not None
    assert len(row.error_message) <= 2000
    assert "hunter2" not in row.error_message
