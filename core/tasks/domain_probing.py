"""Probing across domains: fitted on labels of seen domains, tested on a domain never seen."""

from torch import Tensor

from core.data.checks import DataError
from core.data.samples import Samples
from core.evaluation.evaluation import Evaluation
from core.evaluation.linear_probe import LinearProbe
from core.tasks.probing import Probing
from core.tasks.samples import embed_all, joint_embedding
from core.trainers.system import System

_PENALTY = 1e-3


class DomainProbing(Probing):
    """`Probing`, whose test split is the unseen domain, with two measures of the seen ones.

    `seen_accuracy` is the linear probe's on validation, that is, on seen domains.
    `domain_accuracy` is what a linear probe tells of the label `domain` there: the less, the less
    of the domain is left in the representation. Their penalty is fixed, as no rows are left to
    choose it on.
    """

    def evaluate(self, system: System, data: Samples, split: str) -> Evaluation:
        """What `Probing` says of the split; on the test split the two measures besides.

        Raises:
            DataError: as `Probing`; or the data have no label `domain`.
        """
        found = super().evaluate(system, data, split)
        if split != "test":
            return found
        if "domain" not in data.labels:
            raise DataError(
                f"the data have the labels {', '.join(data.labels) or 'none'}",
                expected="label_domain, -1 for samples of domains that training never sees",
            )
        for metric, label in (("seen_accuracy", "label"), ("domain_accuracy", "domain")):
            found.metrics[metric] = _accuracy_on_validation(system, data, data.labels[label])
        return found


def _accuracy_on_validation(system: System, data: Samples, labels: Tensor) -> float:
    rows = {s: data.splits[s][labels[data.splits[s]] >= 0] for s in ("train", "valid")}
    x = {s: joint_embedding(embed_all(system, data, of)).float() for s, of in rows.items()}
    y = {s: labels[of] for s, of in rows.items()}
    probe = LinearProbe.fit(x["train"], y["train"], x["valid"], y["valid"], (_PENALTY,))
    return float((probe.predict(x["valid"]) == y["valid"]).float().mean())
