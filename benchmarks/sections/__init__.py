"""One file per section of the benchmark; each has `measure(place, …) -> Report`."""
