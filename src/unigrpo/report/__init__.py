"""From scores to claims, tables, figures and a gallery. Never imports torch: a released scores.csv is enough."""
