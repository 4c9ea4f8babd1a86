"""Processes rows with the actors of a Ray cluster."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

BLOCKS_EACH = 10  # per actor, so that all finish at about the same time


def done_on_ray(
    rows: Sequence[Mapping[str, Any]],
    actor: type,
    *,
    args: Sequence[Any],
    num_workers: int | None,
    on_gpu: bool,
) -> Generator[dict[str, Any], None, None]:
    """Yields the actors' result for each row as it is completed.

    Args:
        actor: built from `args` and called with the columns of one row; returns columns.
        num_workers: the number of actors; by default one per CPU core, or GPU, of the cluster.
    """
    try:
        import ray.data
    except ImportError as error:
        raise ValueError(
            "The engine ray needs Ray. Install it with: pip install 'lm-audio[cluster]'."
        ) from error
    if not rows:
        return
    if not ray.is_initialized():
        ray.init()
    ray.data.DataContext.get_current().enable_progress_bars = False  # the recipes have their own
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray types most others
    size = num_workers or int(resources.get("GPU" if on_gpu else "CPU", 1))
    done = ray.data.from_items(
        list(rows), override_num_blocks=min(len(rows), BLOCKS_EACH * size)
    ).map_batches(
        actor,
        fn_constructor_args=args,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(size, len(rows))),
        num_cpus=1,
        num_gpus=int(on_gpu),
    )
    yield from done.iter_rows()
