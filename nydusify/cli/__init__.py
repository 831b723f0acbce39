"""The command. One module a sub-command; parsing imports nothing heavy.

```
main      entry point, global options, version
convert   nydusify convert;  run: nydusify run FLOW, the one door to the flows
options   the options of convert as a dataclass, and what they mean to the library
command   a sub-command's options from a dataclass;  values: sizes, durations, patterns
logs      log lines;  output: progress as lines or bars;  summary: the result as text and JSON
errors    messages and exit codes
```
"""
