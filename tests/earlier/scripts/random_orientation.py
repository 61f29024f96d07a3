"""Random rotations of the C program's generator, applied to the vectors of a crystal."""

import torch

from nanobrag_torch.config import CrystalConfig
from nanobrag_torch.models import Crystal
from nanobrag_torch.utils.c_random import CLCG, mosaic_rotation_umat, umat2misset
from nanobrag_torch.utils.geometry import angles_to_rotation_matrix, magnitude, rotate_axis, rotate_umat, unitize
from nanobrag_torch.utils.units import degrees_to_radians, radians_to_degrees

generator = CLCG(seed=-12345678)
draws = [generator.ran1() for _ in range(3)]
print("draws", all(0 < x < 1 for x in draws), len(set(draws)))
umat = mosaic_rotation_umat(degrees_to_radians(90.0), seed=-12345678)
umat = torch.as_tensor(umat, dtype=torch.float64)
print("rotation", tuple(umat.shape), torch.allclose(umat @ umat.T, torch.eye(3, dtype=torch.float64), atol=1e-6))
angles = [float(x) for x in umat2misset(umat)]
turn = angles_to_rotation_matrix(*(torch.tensor(x, dtype=torch.float64) for x in angles))
print("angles", torch.allclose(turn, umat, atol=1e-6))
plain = Crystal(CrystalConfig(cell_a=60.0, cell_b=70.0, cell_c=80.0), dtype=torch.float64)
misset = tuple(radians_to_degrees(x) for x in angles)
turned = Crystal(CrystalConfig(cell_a=60.0, cell_b=70.0, cell_c=80.0, misset_deg=misset), dtype=torch.float64)
print("crystal", torch.allclose(rotate_umat(plain.a_star, umat), turned.a_star, atol=1e-8))
direction, length = unitize(turned.b)
print("length", round(float(length), 6), round(float(magnitude(turned.b)), 6))
half = rotate_axis(direction, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), torch.tensor(torch.pi))
print("half a turn", torch.allclose(half[:2], -direction[:2]))
