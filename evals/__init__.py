"""Evaluations: ``run`` judges a run's images, ``images`` any images by a benchmark, ``cross`` by several rewards."""
