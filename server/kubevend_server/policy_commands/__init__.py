"""`kubevend-server policy`: access policies checked, explained and tested without a server.

`commands` has the options and exit codes. `inspection` looks at a folder; `asked` makes a question of options, and
`cases` makes many of a file (`case_files`); `questions` answers them as the server would; `testing` holds the answers
against the cases; `reports` prints what came of it.
"""
