"""Densities as values: small pytrees with `log_prob`, `sample` and `mean`.

Shapes follow `sample_shape + batch_shape + event_shape`. `event_ndim` says how many trailing axes make one event;
`log_prob` sums over them, in nats.
"""
