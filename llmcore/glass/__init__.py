"""The glass box: watch what flows through a model, and change it on the way.

    llm.watch(ids, lambda name, layer, array: print(name, layer, array.shape))

`watching.py` says what has a name; `keeping.py` keeps arrays of a run; `lens.py` asks what the model would
say after each half layer; `votes.py` splits a logit into what each half layer and each head brings to it;
`memory.py` takes the state of a recurrent layer apart into what each token wrote; `changing.py` runs a text
with an array of another run, or without one.
"""

from .changing import ablate, head_at, patch
from .keeping import keep
from .lens import Lens, best_of, logit_lens
from .votes import Votes, votes
from .watching import NAMES

__all__ = ["NAMES", "Lens", "Votes", "ablate", "best_of", "head_at", "keep", "logit_lens", "patch", "votes"]
