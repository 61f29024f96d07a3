"""One shot of an ensemble: its pixels and parameters, with its intensities those that all shots share."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.build import Slots
from nanobrag_torch.refinement.columns import eliminate
from nanobrag_torch.refinement.equations import solve_symmetric
from nanobrag_torch.refinement.problem import Problem, State
from nanobrag_torch.refinement.shared import ShotEquations
from nanobrag_torch.refinement.solver import LEAST_DAMPING, LONGEST_STEP, MOST_DAMPING, START_DAMPING
from nanobrag_torch.refinement.targets import LEAST
from nanobrag_torch.refinement.verdict import total_signal

PLANE_STEPS = 4
LEAST_SIGNAL = 10.0
"""Standard deviations of all spots together; a fit finds some 6 in the noise of a blank by its choice of parameters."""
FAINTEST = 1e-3
"""Factor to the scale of a shot whose pixels show nothing: it then says nothing of the intensities."""
PLANE_GAIN = 1e-9


class SharedShot:
    """A shot's state between steps. x are shared intensities relative to those of the list, as everywhere here."""

    def __init__(self, name: str, problem: Problem, slots: Slots, state: State, shared: Asymmetric) -> None:
        """problem, slots and state: of a refinement of the shot alone, whose intensities and gauge are given up."""
        none = torch.zeros_like(problem.prior_precision)
        self.name, self.slots = name, slots
        self.problem = replace(problem, prior_precision=none, constraint=problem.constraint[:0])
        self.reflections = shared.places(slots.hkl)
        self.ratio = shared.intensity[self.reflections] / slots.amplitude**2
        self.intensity = torch.zeros_like(none, dtype=torch.bool)
        self.intensity[slots.block, slots.column] = True
        same = slots.block[:, None] == slots.block
        self.pairs = (same & ~torch.eye(len(same), dtype=torch.bool)).nonzero().T
        self.state, self.damping, self.weight = state, START_DAMPING, 1.0
        self.before: tuple[State, float] | None = None
        self.alone, self.signal = self.sigma_z(), math.inf
        self.ahead, self.refused = math.inf, 0
        self.reason, self.final = "", False

    def start(self, x: Tensor) -> None:
        """Hold the intensities at x [N], with the scales that the pixels ask for then."""
        self.state = self._with(self.state, x)
        self.state = self._settled(replace(self.state, raw=self._scaled()))
        self.signal = total_signal(self.problem, self.state)  # with intensities of its own a shot sees spots in noise

    def _scaled(self) -> Tensor:
        """Raw parameters [T] with the free scales at their best for these intensities and planes."""
        problem, state, raw = self.problem, self.state, self.state.raw.clone()
        spots, expected = problem.spots(state), problem.expected(state)
        weight = 1 / (expected + problem.boxes.readout).clamp(min=LEAST)
        left = problem.boxes.data - expected + spots
        factor = float((weight * spots * left).sum() / (weight * spots**2).sum().clamp(min=1e-300))
        for lattice in problem.model.lattices:
            if f"scale{lattice.suffix}" in problem.parameters.names and math.isfinite(factor):
                raw[problem.parameters.names.index(f"scale{lattice.suffix}")] += math.log(max(factor, FAINTEST))
        return raw

    def judge(self, sigma_z: float, most: float, apart: float) -> None:
        """Weight one, or none with a reason for a sigma-Z above `most`, or `apart` times that of the shot alone."""
        if self.final:
            return
        self.weight, self.reason = 1.0, ""
        if not math.isfinite(sigma_z) or not math.isfinite(self.state.objective):
            self.leave_out("its model or its data are not finite", final=True)
        elif self.signal < LEAST_SIGNAL:
            self.leave_out(f"no signal: {self.signal:.1f} sigma in all its boxes together", final=True)
        elif sigma_z > most:
            self.leave_out(f"sigma-Z {sigma_z:.2f}, above {most:.2f}")
        elif sigma_z > apart * self.alone:
            self.leave_out(f"disagrees with the others: sigma-Z {sigma_z:.2f}, alone {self.alone:.2f}")

    def leave_out(self, reason: str, *, final: bool = False) -> None:
        """Count for nothing; final: whatever comes."""
        self.weight, self.reason, self.final = 0.0, reason, final

    def row(self) -> dict[str, object]:
        """Of the table of shots."""
        return {
            "name": self.name,
            "sigma_z": self.sigma_z(),
            "sigma_z_alone": self.alone,
            "weight": self.weight,
            "reflections": len(self.reflections),
            "from_best_sigmas": self.ahead,
            "reason": self.reason,
        }

    def hold(self, x: Tensor) -> None:
        """The same parameters with the intensities at x [N]."""
        self.state = self._settled(self._with(self.state, x))

    def equations(self) -> ShotEquations:
        """The normal equations about the shot's state, its planes eliminated."""
        e = self.problem.equations(self.state)
        size, count = e.h.shape[1], len(e.g)
        plane = (~self.intensity).double()
        gram = torch.cat((e.D, e.B, e.D), 2) * plane[:, :, None]
        gram[:, :, :size] *= plane[:, None, :]
        rest = gram.new_zeros((len(gram), size + count, gram.shape[2]))
        zero = gram.new_zeros((len(gram), size + count))
        inner = eliminate(torch.cat((gram, rest), 1), torch.cat((e.h * plane, zero), 1), size)
        follow_B, follow_D = inner.follow[..., :count], inner.follow[..., count:]
        border = e.B * plane[:, :, None]
        B, h = e.B - e.D @ follow_B, e.h - (e.D @ inner.free[..., None])[..., 0]
        D = e.D - e.D @ follow_D
        block, column = self.slots.block, self.slots.column
        first, second = self.pairs
        return ShotEquations(
            name=self.name,
            A=e.A - torch.einsum("bct,bcu->tu", border, follow_B),
            B=B[block, column] * self.ratio[:, None],
            D=D[block, column, column] * self.ratio**2,
            pairs=self.pairs,
            cross=D[block[first], column[first], column[second]] * self.ratio[first] * self.ratio[second],
            g=e.g - torch.einsum("bct,bc->t", border, inner.free),
            h=h[block, column] * self.ratio,
            reflections=self.reflections,
            weight=self.weight,
            damping=self.damping,
        )

    def look_ahead(self, equations: ShotEquations, change: Tensor) -> None:
        """Note how far, in its standard deviations, a parameter would go without damping for a change [N]."""
        free = equations.undamped()
        identity = torch.eye(len(free.A), dtype=torch.float64)
        variance = [float(solve_symmetric(free.A, column) @ column) for column in identity]
        sigma = torch.tensor(variance, dtype=torch.float64).clamp(min=1e-300).sqrt()
        found = float((free.follow(change).abs() / sigma).max()) if len(identity) else 0.0
        self.ahead = found if math.isfinite(found) else math.inf

    def move(self, equations: ShotEquations, change: Tensor, x: Tensor) -> None:
        """Follow a change [N] to x [N]; parameters that would make it worse stay, with more damping next time."""
        self.before = (self.state, self.damping)
        stayed = self._settled(self._with(self.state, x))
        step = equations.follow(change)
        longest = float((step / self.problem.parameters.scales()).abs().max()) if len(step) else 0.0
        if not math.isfinite(longest):
            self.state, self.damping, self.refused = stayed, min(self.damping * 10, MOST_DAMPING), self.refused + 1
            return
        step = step * min(1.0, LONGEST_STEP / max(longest, 1e-300))
        raw = self.state.raw + step
        moved = self._settled(self._with(State(raw, stayed.linear, self.problem.render(raw)), x))
        better = moved.objective <= stayed.objective
        self.state, self.refused = (moved, 0) if better else (stayed, self.refused + 1)
        self.damping = max(self.damping / 10, LEAST_DAMPING) if better else min(self.damping * 10, MOST_DAMPING)

    def back(self) -> None:
        """To where the last move began, with more damping."""
        assert self.before is not None
        self.state, self.damping = self.before[0], min(self.before[1] * 10, MOST_DAMPING)

    def sigma_z(self) -> float:
        """Of all pixels; infinite where the model is not finite."""
        found = float(self.problem.sigma_z(self.state).std())
        return found if math.isfinite(found) else math.inf

    def _with(self, state: State, x: Tensor) -> State:
        linear = state.linear.clone()
        linear[self.slots.block, self.slots.column] = x[self.reflections] * self.ratio
        return replace(state, linear=linear)

    def _settled(self, state: State) -> State:
        """With the planes at their best, by Fisher scoring with step halving."""
        problem, block = self.problem, self.problem.layout.block
        columns, fixed = problem.columns(state.raw, state.rendered)
        planes = columns * ~self.intensity[block]
        fixed = fixed + ((columns - planes) * state.linear[block]).sum(1)
        above, precision = problem.parameters.prior_terms(state.raw)
        shares = 1.0 if problem.shares is None else problem.shares
        linear = state.linear

        def value(at: Tensor) -> float:
            terms = problem.target.terms(problem.boxes.data, (planes * at[block]).sum(1) + fixed, problem.boxes.readout)
            return float((terms.loss * shares).sum() + (precision * above**2).sum() / 2)

        lowest = value(linear)
        if not math.isfinite(lowest):
            return replace(state, objective=math.inf)
        for _ in range(PLANE_STEPS):
            model = (planes * linear[block]).sum(1) + fixed
            terms = problem.target.terms(problem.boxes.data, model, problem.boxes.readout)
            gram, right = problem.layout.gram(planes, terms.weight * shares, -terms.slope * shares)
            change = eliminate(gram, right, gram.shape[1]).free
            trials = ((value(linear + share * change), share) for share in (1.0, 0.5, 0.25, 0.125))
            found, share = next(((v, s) for v, s in trials if v < lowest), (lowest, 0.0))
            linear, gain, lowest = linear + share * change, lowest - found, found
            if gain < PLANE_GAIN * (1 + abs(lowest)):
                break
        return replace(state, linear=linear, objective=lowest)
