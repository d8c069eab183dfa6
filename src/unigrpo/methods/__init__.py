"""Update rules: one file per rule that differs in kind."""
