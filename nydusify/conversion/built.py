"""What a layer became, as a small value and as a note in the store."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from nydusify.build.layer import LayerFacts
from nydusify.digest import Digest
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.nydus import blob_layer

Origin = Literal["built", "store", "target"]


def layer_mark(key: str, diff_id: Digest) -> str:
    """How a blob at the target says what it was built with, and that the layer's tar was the promised one."""
    return f"{key}-{diff_id.hex[:16]}"


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """What a layer became. Its bootstrap and chunk information are in the store under these digests."""

    source: Digest
    """Of the source layer."""
    key: str
    """`BuildOptions.key` that it was built with."""
    facts: LayerFacts
    bootstrap: Digest
    bootstrap_size: int
    meta: Digest | None
    """Chunk information as hosts cache it; none for v5 and for layers without data."""
    meta_size: int
    origin: Origin
    pulled_size: int = 0
    pull_ns: int = 0
    build_ns: int = 0

    @property
    def layer(self) -> Descriptor:
        """The blob as a layer of the target, marked with what it was built from so that later runs find it there."""
        marks = {
            media.ANNOTATION_SOURCE_DIGEST: str(self.source),
            media.ANNOTATION_OPTIONS_KEY: layer_mark(self.key, self.facts.diff_id),
        }
        return blob_layer(self.facts.blob, self.facts.blob_size).with_annotations(**marks)


def to_json(built: BuiltLayer) -> dict[str, Any]:
    """For a note; sizes of this run's work are not part of it."""
    facts = asdict(built.facts) | {"blob": str(built.facts.blob), "diff_id": str(built.facts.diff_id)}
    return {
        "source": str(built.source),
        "key": built.key,
        "facts": facts,
        "bootstrap": str(built.bootstrap),
        "bootstrap_size": built.bootstrap_size,
        "meta": str(built.meta) if built.meta else None,
        "meta_size": built.meta_size,
    }


def from_json(note: dict[str, Any]) -> BuiltLayer:
    """Raises KeyError, TypeError or ValueError for anything but what `to_json` wrote."""
    facts = note["facts"]
    parsed = {"blob": Digest.parse(facts["blob"]), "diff_id": Digest.parse(facts["diff_id"])}
    return BuiltLayer(
        source=Digest.parse(note["source"]),
        key=note["key"],
        facts=LayerFacts(**{**facts, **parsed}),
        bootstrap=Digest.parse(note["bootstrap"]),
        bootstrap_size=note["bootstrap_size"],
        meta=Digest.parse(note["meta"]) if note["meta"] else None,
        meta_size=note["meta_size"],
        origin="store",
    )
