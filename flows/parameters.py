"""The form of a conversion: what the UI asks for, and what is stored with a run. Nothing in it is secret."""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nydusify.build.options import BuildOptions
from nydusify.conversion.job import Job
from nydusify.conversion.location import Location
from nydusify.conversion.publish import ImageOptions
from nydusify.oci.platform import parse_platform
from nydusify.rafs.spec import DEFAULT_CHUNK_SIZE, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE, Compressor, Digester
from nydusify.registry.options import RegistryOptions
from nydusify.reports.redact import redact


class ConvertParameters(BaseModel):
    """Which image becomes which, and how. Logins come from the Docker config of the machine that runs the flow."""

    # An error must not repeat what was typed: it might be a password in the wrong place.
    model_config = ConfigDict(title="Conversion", extra="forbid", hide_input_in_errors=True)

    source: str = Field(
        title="Source image", description="Reference of the OCI or Docker image.", examples=["registry.test/app:1"]
    )
    target: str = Field(
        title="Target image",
        description="Reference, with a tag, of the Nydus image.",
        examples=["registry.test/app:1-nydus"],
    )
    source_archive: str = Field(
        "",
        title="Source archive",
        description="OCI layout, OCI archive or docker-save tar to read instead of a registry.",
        examples=["/images/app.tar"],
    )
    target_archive: str = Field(
        "",
        title="Target archive",
        description="OCI archive to write instead of pushing; an OCI layout if it ends in a slash.",
        examples=["/images/app-nydus.tar"],
    )
    platforms: list[str] = Field(
        default=[],
        title="Platforms",
        description="Of a multi-platform source; none means that of the machine that runs the flow.",
        examples=[["linux/amd64", "linux/arm64"]],
    )
    all_platforms: bool = Field(False, title="All platforms", description="Convert every platform of the source.")
    merge_platform: bool = Field(
        False, title="Merge platforms", description="Put the source's own manifests beside the Nydus ones."
    )
    oci: bool = Field(False, title="OCI media types", description="Turn Docker media types into OCI's.")
    fs_version: Literal[6, 5] = Field(6, title="RAFS version", description="6 mounts with EROFS too, 5 with FUSE only.")
    compressor: Literal["zstd", "lz4_block", "none"] = Field(
        "zstd", title="Compressor", description="Of the chunks in a blob."
    )
    digester: Literal["blake3", "sha256"] = Field("blake3", title="Digester", description="Of the chunks.")
    chunk_size: int = Field(
        DEFAULT_CHUNK_SIZE,
        title="Chunk size",
        description="Bytes; a power of two.",
        ge=MIN_CHUNK_SIZE,
        le=MAX_CHUNK_SIZE,
        examples=[0x100000],
    )
    fs_align_chunk: bool = Field(
        False, title="Align chunks", description="Let chunks begin on 4 KiB in RAFS 5 too; in RAFS 6 they always do."
    )
    prefetch: list[str] = Field(
        default=["/"],
        title="Prefetch",
        description="Paths in the image that a runtime reads first; / means everything.",
        examples=[["/usr/bin", "/etc/app.conf"]],
    )
    source_insecure: bool = Field(
        False, title="Source: any certificate", description="Do not verify the source registry's TLS certificate."
    )
    target_insecure: bool = Field(
        False, title="Target: any certificate", description="Do not verify the target registry's TLS certificate."
    )
    plain_http: bool = Field(False, title="Plain HTTP", description="Talk to both registries without TLS.")
    ca_file: str = Field(
        "",
        title="CA file",
        description="PEM file of authorities to trust besides the system's.",
        examples=["/etc/ca.pem"],
    )
    retry_count: int = Field(
        5,
        title="Retries",
        description="How often in a row a request is sent again, before its task is.",
        ge=0,
        le=100,
    )
    work_dir: str = Field(
        "",
        title="Work directory",
        description="Where layers, blobs and bootstraps are kept between runs; the user's cache directory if empty.",
        examples=["/var/cache/nydusify"],
    )
    store_limit: int = Field(
        20 << 30,
        title="Store limit",
        description="Bytes that the work directory may keep after a run; 0 for all.",
        ge=0,
    )
    reports: str = Field(
        "",
        title="Reports",
        description="Directory or fsspec URL, without credentials, of the Parquet reports; none if empty.",
        examples=["s3://bucket/nydusify", "/var/lib/nydusify/reports"],
    )
    verify: bool = Field(True, title="Verify", description="Read the pushed image back.")

    @field_validator("platforms")
    @classmethod
    def _are_platforms(cls, platforms: list[str]) -> list[str]:
        for platform in platforms:
            parse_platform(platform)
        return platforms

    @field_validator("prefetch")
    @classmethod
    def _are_absolute(cls, prefetch: list[str]) -> list[str]:
        if not all(path.startswith("/") for path in prefetch):
            raise ValueError("paths in the image begin with a /")
        return prefetch

    @field_validator("reports")
    @classmethod
    def _has_no_credentials(cls, reports: str) -> str:
        if redact(reports) != reports:
            raise ValueError("credentials do not belong into parameters; object stores have an environment for them")
        return reports

    @model_validator(mode="after")
    def _can_be_a_job(self) -> "ConvertParameters":
        self.job()
        return self

    def job(self) -> Job:
        """The library's form of the same. Raises `UsageError`."""
        build = BuildOptions(
            fs_version=self.fs_version,
            compressor=Compressor[self.compressor.upper()],
            digester=Digester[self.digester.upper()],
            chunk_size=self.chunk_size,
            aligned=self.fs_align_chunk,
        )
        prefetch = tuple(os.fsencode(path) for path in self.prefetch)
        return Job(
            source=Location(self.source, self.source_archive, self._registry(self.source_insecure)),
            target=Location(self.target, self.target_archive, self._registry(self.target_insecure)),
            options=ImageOptions(build, prefetch, self.oci, self.merge_platform),
            platforms=tuple(parse_platform(platform) for platform in self.platforms),
            all_platforms=self.all_platforms,
            work_dir=Path(self.work_dir) if self.work_dir else None,
        )

    def _registry(self, insecure: bool) -> RegistryOptions:
        ca_file = Path(self.ca_file) if self.ca_file else None
        return RegistryOptions(
            plain_http=self.plain_http, insecure=insecure, ca_file=ca_file, retry_count=self.retry_count
        )
