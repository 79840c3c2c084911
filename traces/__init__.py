"""Request traces: columnar arrays, readers, synthesis, resampling."""
