"""The parser of the command, and the configurations that it makes."""

from nanobrag_torch.__main__ import create_parser, parse_and_validate_args
from nanobrag_torch.models import Crystal, Detector
from nanobrag_torch.simulator import Simulator

parser = create_parser()
line = "-cell 70 80 90 90 90 90 -default_F 10 -N 5 -lambda 1.2 -detpixels 16 -pixel 0.5"
args = parser.parse_args(line.split())
print("words", args.lambda_A, args.default_F, args.cell[1])
run = parse_and_validate_args(args)
print("configurations", run.crystal.cell_b, tuple(run.crystal.N_cells), run.detector.fpixels, run.beam.wavelength_A)
image = Simulator(Crystal(run.crystal), Detector(run.detector), run.crystal, run.beam).run(oversample=1)
print("image", tuple(image.shape), image.max().item() > 0)
