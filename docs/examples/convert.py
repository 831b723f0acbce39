"""Converts one image and prints what each layer became.

python docs/examples/convert.py registry.test/app:1 registry.test/app:1-nydus
python docs/examples/convert.py --archives app.tar app-nydus.tar
"""

import sys

import nydusify
from nydusify.build.options import BuildOptions
from nydusify.conversion.location import Location
from nydusify.conversion.publish import ImageOptions
from nydusify.convert import ConvertOptions
from nydusify.errors import NydusifyError


def main(arguments: list[str]) -> int:
    if arguments[0] == "--archives":
        source = Location("example.test/app:1", archive=arguments[1])
        target = Location("example.test/app:1-nydus", archive=arguments[2])
    else:
        source, target = Location(arguments[0]), Location(arguments[1])
    options = ConvertOptions(image=ImageOptions(build=BuildOptions(fs_version=6), prefetch=(b"/usr/bin",)), jobs=2)
    try:
        result = nydusify.convert(source, target, options)
    except NydusifyError as error:
        print(f"{type(error).__name__}: {error}\n{error.advice or ''}", file=sys.stderr)
        return error.exit_code
    for layer in result.layers:
        facts = layer.built.facts
        print(f"{layer.source.descriptor.digest} -> {facts.blob}: {facts.chunks} chunks, {layer.built.origin}")
    print(result.target_digest)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
