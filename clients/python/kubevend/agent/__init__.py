"""`kubevend agent`: keeps files with tokens up to date, for programs that know nothing of kubevend.

`config` says what is to be kept (`reading` reads it), and `running` or, for a CI job, `once` keeps it. `supply` gets
the tokens, one source for each request. A `keeping.Keeper` for each output has its files made (`contents`), put in
their place (`placing`), and told of (`actions`). `processes` and `wakeups` are commands, the child, orphans and
signals; `health` tells how all is.
"""
