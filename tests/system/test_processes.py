"""Coordination of processes: settings of a cluster that cannot work are refused."""

import pytest

from flax_vae import Cluster, UserError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host", 2, 0), '`coordinator` host: write "host:port", or "auto"'),
        (("host:99999", 2, 0), "`coordinator` host:99999: write"),
        (("host:80", 2), "`coordinator` needs `num_processes`, and a different `process_id` in each process"),
        (("host:80", 2, 2), r"`process_id` is 2, but must be at least 0 and below `num_processes` \(2\)"),
    ],
)
def test_processes_that_could_not_meet_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        Cluster(*arguments)


def test_a_cluster_that_jax_knows_needs_only_its_name() -> None:
    assert Cluster("auto").num_processes is None
