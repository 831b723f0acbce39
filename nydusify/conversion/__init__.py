"""The steps of a conversion. Each is safe to repeat: what the store already holds is not made again.

```
location    where an image is, as a small value, and how to open it
source      manifest, config and layers of every platform that is converted
layers      one layer: from the store, from the target, or pulled and built; its blob pushed
bootstrap   the image's bootstrap from those of its layers, as a layer
publish     config, manifest, index, and the tag last; what the target held before
verify      the pushed image read back
progress    what a step tells while it runs;  report: rows for the data team
```
"""
