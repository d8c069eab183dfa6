"""What looks at pictures for a benchmark: detectors, readers of colours and of text, questions to a model."""
