"""What every objective is by its papers: one forward a completion, in float64, on full logits."""

import torch
from support.across import compared_by_definition, levels_by_definition
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from fastdistill_ray.objectives import (
    AdvDistill,
    AnyObjective,
    BornAgain,
    DistiLlm2,
    Dpkd,
    Dpo,
    MultiLevelOt,
    Opd,
    SampledKl,
    Sft,
    StepByStep,
    TopkKl,
)
from fastdistill_ray.objectives.contract import Divergence
from fastdistill_ray.training.knobs import TrainingKnobs
from fastdistill_ray.training.packing import TrainCompletion, TrainGroup


def by_definition(p: Tensor, q: Tensor, kind: Divergence, a: float) -> Tensor:
    """Of probabilities in float64, as the papers write it."""

    def kl(first: Tensor, second: Tensor) -> Tensor:
        return torch.where(first > 0, first * (first / second).log(), 0.0).sum(-1)

    m = a * p + (1 - a) * q
    return {
        "forward_kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "skew_kl": lambda: kl(p, m),
        "skew_reverse_kl": lambda: kl(q, a * q + (1 - a) * p),
        "jsd": lambda: a * kl(p, m) + (1 - a) * kl(q, m),
        "tvd": lambda: (p - q).abs().sum(-1) / 2,
    }[kind]()


def loss_and_gradients_by_definition(
    objective: AnyObjective, folder: str, groups: list[TrainGroup], frozen: str = ""
) -> tuple[float, dict[str, Tensor]]:
    """The loss of a step of these groups, and its gradients; `frozen`: the folder of the model
    beside the student, whose prompts are `frozen_prompt_ids` where a group has some."""
    student = _load(folder)
    beside = _load(frozen).requires_grad_(False) if frozen else None
    bridge = torch.nn.Identity()
    if objective.needs.bridge:
        torch.manual_seed(TrainingKnobs().seed)
        widths = student.config.hidden_size, beside.config.hidden_size
        bridge = torch.nn.Linear(*widths, bias=False).double()
    total = torch.zeros((), dtype=torch.float64)
    num_texts = sum(len(group.completions) for group in groups)
    num_tokens = sum(len(one.token_ids) for group in groups for one in group.completions)
    readings = [one.reading for group in groups for one in group.completions]
    num_spans = sum(len(one.starts) for one in readings if one)
    for group in groups:
        margin = 0.0
        for one in group.completions:
            logits = _logits(student, group.prompt_ids, one.token_ids)
            logprob = _of_labels(logits, one.token_ids)
            other, states = None, []
            if beside is not None:
                prompt = group.prompt_ids
                if group.frozen_prompt_ids is not None:
                    prompt = group.frozen_prompt_ids
                read = one.reading.token_ids if one.reading else one.token_ids
                other = _logits(beside, prompt, read)
                states = [
                    (
                        bridge(_states(student, group.prompt_ids, one.token_ids, mine)),
                        _states(beside, prompt, one.token_ids, its),
                    )
                    for mine, its in objective.needs.taps
                ]
            if isinstance(objective, AdvDistill):
                mean = logprob.exp().mean().clamp(max=objective.p_max)
                total = total - one.weight * logprob.mean()
                total = total - objective.lambda_ * one.penalty * torch.log(1 - mean)
            elif isinstance(objective, StepByStep):
                share = 1 - objective.alpha if group.is_explained else objective.alpha
                alike = sum(other.is_explained == group.is_explained for other in groups)
                coefficient = one.penalty if group.is_explained else one.weight
                total = total - share * coefficient * logprob.mean() / alike
            elif isinstance(objective, Sft):
                total = total - one.weight * logprob.sum()
            elif objective.needs.across and not isinstance(objective, Opd):
                moved = 0.0
                if isinstance(objective, MultiLevelOt):
                    values, logs, moved = levels_by_definition(objective, logits, other, one)
                    values = values + objective.logarithmic * logs
                    moved = (1 - objective.alpha) * objective.transport * moved
                else:
                    values = compared_by_definition(objective, logits, other, one, [folder, frozen])
                d, ce = 1 - objective.alpha, -objective.alpha * logprob
                both = d * values.sum() / num_spans + ce.sum() / num_tokens + moved / num_texts
                if objective.weighting == "advantage":
                    both = (d * values.mean() + ce.mean() + moved) / len(groups)
                total = total + one.weight * both
            elif isinstance(objective, Opd):
                apart = on_policy(objective, logits, other, one)
                total = total + one.weight * apart / num_tokens
                if objective.reward:
                    written = torch.from_numpy(one.signals.values[:, 0]).double()
                    ratio = (logprob.detach() - written).exp().clamp(max=objective.max_ratio)
                    drawn = _sloped(-ratio, logprob).mean()
                    total = total + objective.reward * one.penalty * drawn / num_texts
            elif isinstance(objective, DistiLlm2):
                total = total + contrasted(objective, logits, other, one)
            elif isinstance(objective, Dpo):
                ratio = logprob - _of_labels(other, one.token_ids)
                is_mean = objective.normalize == "token"
                margin = margin + one.weight * (ratio.mean() if is_mean else ratio.sum())
                if one.weight > 0:
                    total = total - objective.alpha * one.weight * logprob.mean()
            else:
                t = objective.temperature
                p, q = (other / t).softmax(-1), (logits / t).softmax(-1)
                scale = t if objective.kind in ("tvd", "dpkd") else t**2
                if getattr(objective, "knowledge", "") == "confidence":
                    values = -p.amax(-1) * logprob
                else:
                    values = scale * _compared(objective, p, q, one)
                values = (1 - objective.alpha) * values - objective.alpha * logprob
                for mine, its in states:
                    if objective.kind == "pkd":
                        apart = mine / mine.norm(dim=-1, keepdim=True)
                        apart = apart - its / its.norm(dim=-1, keepdim=True)
                        values = values + objective.beta * apart.square().sum(-1)
                    elif objective.kind == "fitnets":
                        values = values + objective.beta * (mine - its).square().sum(-1) / 2
                    elif objective.kind == "lit":
                        pass
                    elif objective.kind == "tinybert":
                        values = values + objective.beta * (mine - its).square().mean(-1)
                    else:
                        alike = torch.nn.functional.cosine_similarity(mine, its, dim=-1)
                        values = values + objective.cosine * (1 - alike)
                if objective.kind == "minilmv2":
                    values = values + objective.beta * sum(
                        _relation_kl(objective.relation_heads, own, its, size, len(one.token_ids))
                        for own, its, size in _related(objective, student, beside, group, one)
                    )
                if objective.kind == "lit":
                    values = (
                        values
                        + objective.beta
                        * _parts(objective, student, beside, [*group.prompt_ids, *one.token_ids])[
                            len(group.prompt_ids) - 1 : -1
                        ]
                    )
                if objective.kind == "minilm":
                    own, its, size = _related(objective, student, beside, group, one)[2]
                    values = values + objective.beta * (
                        _relation_kl(
                            student.config.num_key_value_heads, own, its, size, len(one.token_ids)
                        )
                        + _attention_kl(objective, student, beside, group, one, size)
                    )
                is_mean = objective.weighting == "advantage"
                total = total + one.weight * (values.mean() if is_mean else values.sum())
        if isinstance(objective, Dpo):
            total = total - torch.log(torch.sigmoid(objective.beta * margin))
    is_of_tokens = isinstance(objective, Sft) or (getattr(objective, "weighting", "") == "uniform")
    is_divided = isinstance(objective, Opd | StepByStep) or objective.needs.across
    loss = total if is_divided else total / len(groups)
    if is_of_tokens and not is_divided:
        loss = total / num_tokens
    loss.backward()
    gradients = {name: one.grad for name, one in student.named_parameters()}
    return loss.item(), gradients | {
        f"bridge.{name}": one.grad for name, one in bridge.named_parameters()
    }


def confident_by_definition(
    folder: str, groups: list[TrainGroup], share: float
) -> tuple[float, dict[str, Tensor]]:
    """The mean over tokens of (1 - share) of the text's and share of the likeliest token's."""
    student, values = _load(folder), []
    for group in groups:
        for one in group.completions:
            logits = _logits(student, group.prompt_ids, one.token_ids)
            drawn, best = _of_labels(logits, one.token_ids), logits.log_softmax(-1).amax(-1)
            values.append((one.weight, -(1 - share) * drawn - share * best))
    loss = sum(weight * both.sum() for weight, both in values) / sum(
        len(both) for _, both in values
    )
    loss.backward()
    return loss.item(), {name: one.grad for name, one in student.named_parameters()}


def contrasted(objective: DistiLlm2, logits: Tensor, other: Tensor, one: TrainCompletion) -> Tensor:
    """Of a completion, as the first update has it, where beta is 1: those with a penalty are the
    student's."""
    p, q = other.softmax(-1), logits.softmax(-1)
    mine, its = (q, p) if one.penalty else (p, q)  # which is skewed with the other
    mixed = objective.skew * mine + (1 - objective.skew) * its
    apart = (mine * (mine / mixed).log()).sum(-1).mean()
    return (one.weight + one.penalty) * apart


def on_policy(objective: Opd, logits: Tensor, other: Tensor, one: TrainCompletion) -> Tensor:
    """Of a completion, the sum over its tokens; constants have no gradient."""
    lq, lp = logits.log_softmax(-1), other.log_softmax(-1)
    if objective.form == "full":
        kind, share = objective.divergence, objective.share
        return by_definition(lp.exp(), lq.exp(), kind, share).sum()
    if objective.form == "chunks":
        return chunk_by_chunk(objective, logits, other, one)
    own, its = _of_labels(logits, one.token_ids), _of_labels(other, one.token_ids)
    written = torch.from_numpy(one.signals.values[:, 0]).double()
    now = (own - written).exp()
    ratio = now.detach().clamp(max=objective.max_ratio)
    apart = (own - its).detach()
    if objective.form == "sampled":
        return _sloped(ratio * apart, own).sum()
    if objective.form == "minillm":
        later = [-apart[t + 1 :].mean() if t + 1 < len(own) else 0.0 for t in range(len(own))]
        later = torch.tensor(later, dtype=torch.float64)
        clipped = now.clamp(1 - objective.clip, 1 + objective.clip)
        following = -torch.minimum(later * now, later * clipped)
        return by_definition(lp.exp(), lq.exp(), "reverse_kl", 0.0).sum() + following.sum()
    total = torch.zeros((), dtype=torch.float64)
    for t, label in enumerate(one.token_ids):
        top = lq[t].argsort(descending=True)[: objective.k]
        c = sum(lq[t, v].exp() * (lq[t, v] - lp[t, v]) for v in top).detach()
        for v in top:
            total = total + _sloped((lq[t, v].exp() * (lq[t, v] - lp[t, v] - c)).detach(), lq[t, v])
        if label not in top:
            total = total + _sloped(ratio[t] * (apart[t] - c), own[t])
        total = total + c
    return total


def chunk_by_chunk(objective: Opd, logits: Tensor, other: Tensor, one: TrainCompletion) -> Tensor:
    """Of a completion, span by span."""
    own = _of_labels(logits, one.token_ids)
    its = _of_labels(other, one.reading.token_ids)
    written = torch.from_numpy(one.signals.values[:, 0]).double()
    total = torch.zeros((), dtype=torch.float64)
    ends = [*one.reading.starts[1:], (len(own), len(its))]
    for (a, c), (b, d) in zip(one.reading.starts, ends, strict=True):
        said = own[a:b].sum()
        ratio = (said - written[a:b].sum()).detach().exp().clamp(max=objective.max_ratio)
        total = total + _sloped(ratio * (said.detach() - its[c:d].sum()), said)
    return total


def _sloped(value: Tensor, logprob: Tensor) -> Tensor:
    return value * (1 + logprob - logprob.detach())


def _compared(objective: AnyObjective, p: Tensor, q: Tensor, one: TrainCompletion) -> Tensor:
    """Of a completion's tokens, by how much the student differs from the teacher."""
    if isinstance(objective, Dpkd):
        a, b = p.argmax(1, keepdim=True), q.argmax(1, keepdim=True)
        margin = (q / p).log().gather(1, a) - (q / p).log().gather(1, b)
        loss = -torch.log(torch.sigmoid(objective.beta * margin))
        return torch.where(a == b, 0.0, loss)[:, 0]
    if isinstance(objective, TopkKl):
        ids = p.topk(objective.k).indices
        p, q = (
            torch.cat([of.gather(1, ids), of.scatter(1, ids, 0.0).sum(1, keepdim=True)], 1)
            for of in (p, q)
        )
        return by_definition(p, q, "forward_kl", 0.0)
    if isinstance(objective, SampledKl):
        ids, shares = map(torch.from_numpy, one.signals[:2])
        return -(shares * q.log().gather(1, ids.clamp(min=0))).sum(1)
    if isinstance(objective, BornAgain):
        return born_again(objective, p, q)
    return by_definition(p, q, objective.measure.kind, objective.measure.alpha)


def born_again(objective: BornAgain, p: Tensor, q: Tensor) -> Tensor:
    """Permuted: the cross-entropy with the mean of p over all cyclic permutations of what is not
    likeliest, which holds each value once at each place as all permutations do equally often."""
    if objective.knowledge == "whole":
        return by_definition(p, q, "forward_kl", 0.0)
    values = []
    for row, other in zip(p, q, strict=True):
        best = int(row.argmax())
        rest = torch.cat([row[:best], row[best + 1 :]])
        logs = torch.cat([other[:best], other[best + 1 :]]).log()
        turns = torch.stack([rest.roll(turn) for turn in range(len(rest))])
        values.append(-row[best] * other[best].log() - (turns @ logs).mean())
    return torch.stack(values)


def _load(folder: str) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    )


def _logits(model: torch.nn.Module, prompt: object, ids: object) -> Tensor:
    """Of what each token of the completion is drawn from."""
    return model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]


def _states(model: torch.nn.Module, prompt: object, ids: object, block: int) -> Tensor:
    """What the block's own forward gave; of -1 what the head was given, of -2 the embeddings."""
    kept = []
    if block == -2:
        return model.model.embed_tokens(torch.tensor([*prompt, *ids]))[len(prompt) - 1 : -1]
    module = model.lm_head if block < 0 else model.model.layers[block]
    if block < 0:
        hook = module.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    else:
        hook = module.register_forward_hook(
            lambda _, given, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
    model(torch.tensor([[*prompt, *ids]]))
    hook.remove()
    return kept[0][0, len(prompt) - 1 : -1]


def _related(
    objective: AnyObjective,
    student: torch.nn.Module,
    beside: torch.nn.Module,
    group: TrainGroup,
    one: TrainCompletion,
) -> list[tuple[Tensor, Tensor, int]]:
    """Of queries, keys and values what the projections gave of all tokens but the last, of both
    models, and with how many tokens both prompts end alike, the last one in any case."""
    prompts, size = _prompts(group), 1
    while size < min(map(len, prompts)) and (prompts[0][-size - 1 :] == prompts[1][-size - 1 :]):
        size += 1
    size = size if prompts[0][-1] == prompts[1][-1] else 1
    found = []
    for name in ("q_proj", "k_proj", "v_proj"):
        blocks = zip((student, beside), prompts, objective.layers[0], strict=True)
        own, its = (_projected(model, prompt, one, block, name) for model, prompt, block in blocks)
        found.append((own, its, size))
    return found


def _projected(
    model: torch.nn.Module, prompt: list[int], one: TrainCompletion, block: int, name: str
) -> Tensor:
    """What a projection gave of all tokens but the last."""
    kept = []
    layer = getattr(model.model.layers[block].self_attn, name)
    hook = layer.register_forward_hook(lambda _, given, out: kept.append(out[0]))
    model(torch.tensor([[*prompt, *one.token_ids[:-1]]]))
    hook.remove()
    return kept[0]


def _prompts(group: TrainGroup) -> tuple[list[int], list[int]]:
    frozen = group.frozen_prompt_ids
    return list(group.prompt_ids), list(group.prompt_ids if frozen is None else frozen)


def _parts(
    objective: AnyObjective, student: torch.nn.Module, beside: torch.nn.Module, ids: list[int]
) -> Tensor:
    """[L], block by block: each of the student's begins with what the teacher's gave."""
    tokens = torch.tensor([ids])
    gave, hooks = {}, []
    for place, block in enumerate(beside.model.layers):
        keep = lambda _, given, out, place=place: gave.update({place: out})  # noqa: E731
        hooks.append(block.register_forward_hook(keep))
    beside(tokens)
    for hook in hooks:
        hook.remove()
    hidden = student.model.embed_tokens(tokens)
    seen = {
        "attention_mask": torch.full((1, 1, len(ids), len(ids)), -torch.inf).double().triu(1),
        "position_embeddings": student.model.rotary_emb(hidden, torch.arange(len(ids))[None]),
    }
    total, start = 0.0, 0
    for block, other in objective.layers:
        for layer in student.model.layers[start : block + 1]:
            hidden = layer(hidden, **seen)
        total = total + (hidden - gave[other])[0].square().mean(-1)
        hidden, start = gave[other], block + 1
    return total


def _attention_kl(
    objective: AnyObjective,
    student: torch.nn.Module,
    beside: torch.nn.Module,
    group: TrainGroup,
    one: TrainCompletion,
    size: int,
) -> Tensor:
    """[S] of the attention of Llama, by its own rotary positions, to what both models see."""
    num_targets, maps = len(one.token_ids), []
    blocks = zip((student, beside), _prompts(group), objective.layers[0], strict=True)
    for model, prompt, block in blocks:
        query, key = (_projected(model, prompt, one, block, name) for name in ("q_proj", "k_proj"))
        heads = model.config.num_attention_heads, model.config.num_key_value_heads
        query, key = (
            x.unflatten(1, (num, -1)).transpose(0, 1)[None]
            for x, num in zip((query, key), heads, strict=True)
        )
        positions = model.model.rotary_emb(query, torch.arange(query.shape[2])[None])
        query, key = apply_rotary_pos_emb(query, key, *positions)
        key = key.repeat_interleave(heads[0] // heads[1], 1)
        scores = (query @ key.mT)[0] * query.shape[-1] ** -0.5
        scores = scores + torch.full_like(scores[0], -torch.inf).triu(1)
        maps.append(scores[:, -num_targets:, -(size + num_targets - 1) :].softmax(-1))
    q, p = maps
    p_seen, q_seen = (torch.where(p > 0, x, 1.0) for x in (p, q))
    return (p * (p_seen / q_seen).log()).sum(-1).mean(0)


def _relation_kl(num_heads: int, own: Tensor, its: Tensor, size: int, num_targets: int) -> Tensor:
    """[S], head by head and token by token."""
    seen = size + num_targets - 1
    values = []
    for place in range(size - 1, seen):
        total = 0.0
        for head in range(num_heads):
            rows = []
            for all_of in (own[-seen:], its[-seen:]):
                x = all_of.unflatten(1, (num_heads, -1))[:, head]
                rows.append((x[place] @ x[: place + 1].T / x.shape[1] ** 0.5).softmax(0))
            q, p = rows
            total = total + (p * (p / q).log()).sum() / num_heads
        values.append(total)
    return torch.stack(values)


def _of_labels(logits: Tensor, ids: object) -> Tensor:
    return logits.log_softmax(-1)[torch.arange(len(ids)), torch.as_tensor(ids)]
