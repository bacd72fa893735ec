"""What may be issued, and to whom: pure functions, without I/O and without a clock."""
