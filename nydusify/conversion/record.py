"""What becomes known of a `Job` while its steps run: the result, and the rows of the report."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from nydusify.conversion import report
from nydusify.conversion.job import Effort, Job
from nydusify.conversion.progress import Watch
from nydusify.conversion.result import ConvertResult, ImageResult, LayerResult
from nydusify.conversion.source import SourceLayer
from nydusify.conversion.steps import Built, Fetched, Merged, Published, Pulled, Pushed
from nydusify.digest import Digest


@dataclass(frozen=True, slots=True)
class LayerSteps:
    """What the steps said of one layer."""

    source: SourceLayer
    pulled: Pulled | None
    """None for a layer that was held."""
    built: Built
    pushed: Pushed

    @property
    def efforts(self) -> list[Effort]:
        """Of this run: a held layer was built in an earlier one."""
        return (
            [self.pushed.effort] if self.pulled is None else [self.pulled.effort, self.built.effort, self.pushed.effort]
        )


class Record:
    """Collects one run. Used as a context manager by `watching`, which leaves a row if the run fails."""

    def __init__(self, job: Job, run_id: str, reports: str = "") -> None:
        """``reports`` is the root of the Parquet data set; none is written if it is empty."""
        self._job = job
        self._reports = reports
        self._watch = Watch()
        self._facts = report.RunFacts(run_id, datetime.now(UTC), job.source, job.target, job.options, self._watch)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time the run, and write the rows of its failure."""
        try:
            with self._watch.stage("total"):
                yield
        except BaseException as error:
            if self._reports:
                report.write_failure(self._reports, self._facts, error)
            raise

    def fetched(self, fetched: Fetched) -> Fetched:
        self._facts.images = fetched.images
        self._add(fetched.effort)
        return fetched

    def layers(self, steps: Sequence[LayerSteps]) -> dict[Digest, LayerResult]:
        """Take note of the layers; return them by source layer, as this run left them."""
        for one in steps:
            self._add(*one.efforts)
            built = one.built.layer
            if one.pulled is None:
                built = replace(built, origin="store", pulled_size=0, pull_ns=0, build_ns=0)
            result = LayerResult(one.source, built, one.pushed.size, one.pushed.effort.elapsed_ns)
            self._facts.layers[one.source.descriptor.digest] = result
        return self._facts.layers

    def unchanged(self, fetched: Fetched) -> ConvertResult:
        """The result of a run that had nothing to do."""
        assert fetched.unchanged is not None
        assert fetched.tagged is not None
        images = [
            ImageResult(image, entry, fetched.sizes[entry.digest], 0, None, ())
            for image, entry in zip(fetched.images, fetched.unchanged, strict=True)
        ]
        return self._result(fetched, fetched.tagged.digest, fetched.tagged.media_type, images, unchanged=True)

    def converted(
        self, fetched: Fetched, merged: Sequence[Merged], published: Published, verified: Effort | None
    ) -> ConvertResult:
        self._add(*(one.effort for one in merged), published.effort, *([verified] if verified else []))
        layers = {
            digest: replace(layer, pushed_size=layer.pushed_size + published.sent[digest])
            for digest, layer in self._facts.layers.items()
        }
        images = []
        for image, made, one in zip(fetched.images, published.images, merged, strict=True):
            used = tuple(layers[layer.digest] for layer in image.manifest.layers)
            images.append(ImageResult(image, made.entry, made.size, made.pushed_size, one.bootstrap, used))
        root = published.root
        return self._result(fetched, root.digest, root.media_type, images, verified=verified is not None)

    def _result(
        self,
        fetched: Fetched,
        digest: Digest,
        media_type: str,
        images: Sequence[ImageResult],
        unchanged: bool = False,
        verified: bool = False,
    ) -> ConvertResult:
        watch = self._watch
        return ConvertResult(
            source=str(self._job.source),
            target=str(self._job.target),
            source_digest=fetched.root.digest,
            target_digest=digest,
            target_media_type=media_type,
            images=tuple(images),
            unchanged=unchanged,
            verified=verified,
            pull_ns=watch.elapsed("pull"),
            build_ns=watch.elapsed("build") + watch.elapsed("merge"),
            push_ns=watch.elapsed("push"),
        )

    def finish(self, result: ConvertResult) -> ConvertResult:
        """After `watching`: complete the result, and write its rows."""
        result = replace(result, elapsed_ns=self._watch.elapsed("total"))
        if self._reports:
            result = replace(result, report=report.write(self._reports, self._facts, result))
        return result

    def _add(self, *efforts: Effort) -> None:
        for effort in efforts:
            self._watch.add(effort.stage, effort.started_ns, effort.ended_ns)
            self._facts.retries += effort.retries


def summary(result: ConvertResult) -> dict[str, Any]:
    """The result as plain JSON values. Sizes are bytes."""
    layers = result.layers
    return {
        "source": result.source,
        "target": result.target,
        "source_digest": str(result.source_digest),
        "target_digest": str(result.target_digest),
        "target_media_type": result.target_media_type,
        "platforms": {str(image.source.platform): str(image.entry.digest) for image in result.images},
        "verdict": result.verdict,
        "source_size": result.source_size,
        "target_size": result.target_size,
        "pulled_size": sum(layer.built.pulled_size for layer in layers),
        "pushed_size": sum(layer.pushed_size for layer in layers) + sum(image.pushed_size for image in result.images),
        "layers": len(layers),
        "built_layers": sum(layer.built.origin == "built" for layer in layers),
        "elapsed_seconds": round(result.elapsed_ns / 1e9, 3),
        "report": result.report,
    }
