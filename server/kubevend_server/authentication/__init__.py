"""Who calls. `authenticator` says which of what a call shows counts; the other modules know one kind of proof each."""
