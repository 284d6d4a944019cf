"""What is to be made of a sequence, and with what."""

from dataclasses import dataclass

from jaxrecon.images import ImageBatch, ImageRule, MaskSource, Sampling
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.pipeline.joins import JoinConfig
from jaxrecon.priors import PriorArrays, ViewPriors, prior_arrays
from jaxrecon.runtime.defaults import ModelDefaults
from jaxrecon.runtime.executor import Executor
from jaxrecon.runtime.options import ProgramKey, RuntimeInputs


@dataclass(frozen=True)
class SequenceJob:
    """What is to be made of a sequence, and with what; see `Pipeline.reconstruct_sequence`.

    Attributes:
      executor, inputs, key, attention: the model, and what it is to do.
      name: the model's in results.
      rule: how it wants its images.
      defaults: how the model's family is used.
      chunk, overlap: numbers of views.
      joins: how chunks are joined.
      loops: whether places that the sequence comes back to are made to agree.
      sampling, resolution, masks, priors: see `Pipeline.reconstruct`.
    """

    executor: Executor
    inputs: RuntimeInputs
    key: ProgramKey
    attention: AttentionFn
    name: str
    rule: ImageRule
    defaults: ModelDefaults
    chunk: int
    overlap: int
    joins: JoinConfig
    loops: bool
    sampling: Sampling
    resolution: int | None
    masks: MaskSource | None
    priors: ViewPriors

    @property
    def with_scale(self) -> bool:
        """Whether joins fit a scale."""
        return self.joins.with_scale(metric=self.defaults.metric)

    def prior_arrays(self, priors: ViewPriors, batch: ImageBatch) -> PriorArrays:
        """What is known of some views, as the model takes it.

        Raises:
          InputError: it cannot be used; see `prior_arrays`.
        """
        return prior_arrays(
            priors,
            batch.transforms,
            self.rule.resized_intrinsics,
            independent=self.defaults.independent_priors,
        )
