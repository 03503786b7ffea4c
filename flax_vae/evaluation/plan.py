"""Settings of an evaluation."""

from dataclasses import dataclass

from flax_vae.fields import refuse_seed
from flax_vae.metrics.likelihood import Defence
from flax_vae.runs.config import Binarize
from flax_vae.system.errors import UserError


@dataclass(frozen=True)
class Plan:
    """Settings of an evaluation.

    Attributes:
        num_samples: draws per image for the importance-weighted bound, at least 2; one bound for each number.
        num_images: number of test images for the bound, chosen by the seed. All other figures use the whole test set,
            except the parts of the rate if comparing all pairs of images would take long.
        seed: seed of the draws.
        binarize, binarize_seed: as in `Config`, to evaluate on differently binarised images.
        defence: defensive importance sampling; see `Defence`.
        annealing_steps: steps of annealed importance sampling, run on the same images in addition to the bound; 0 to
            leave it out.
        metrics: further metrics, of the user's own: "my_module:my_metric(size=3)", a function of a `Subject` that
            returns a number or a dictionary of numbers.
    """

    num_samples: tuple[int, ...] = (10, 100, 1000)
    num_images: int = 1000
    seed: int = 0
    binarize: Binarize | None = None
    binarize_seed: int = 0
    defence: Defence | None = None
    annealing_steps: int = 0
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise UserError for numbers out of range."""
        refuse_seed("seed", self.seed)
        if not self.num_samples or min(self.num_samples) < 2 or self.num_images < 2:
            raise UserError("`num_samples` and `num_images` must be at least 2: fewer have no standard error.")


# Settings fixed by published tables. Only the binarisation seed is our choice.
PROTOCOLS = {"exemplar_vae": Plan(num_samples=(5000,), num_images=10_000, binarize="dynamic", binarize_seed=0)}
