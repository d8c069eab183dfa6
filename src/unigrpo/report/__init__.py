"""From scores to tables, figures and a gallery. Never imports torch: a released scores.csv is enough."""
