"""Named scores of a completion and their weighted sum, the reward. No torch, no Ray.

arXiv 2507.00054: R_i = 2 r_cos + 1 r_fmt (eq. 2), the cosine of the length (eq. 3).
"""

from fastdistill_ray.rewards.scorer import RewardKnobs, Scorer
from fastdistill_ray.rewards.template import check_format

__all__ = ["RewardKnobs", "Scorer", "check_format"]
