"""A small file of amplitudes in CIF: an orthorhombic cell, and the loop over reflections up to their indices."""

LOOP = """_cell.length_a 40
_cell.length_b 50
_cell.length_c 60
_cell.angle_alpha 90
_cell.angle_beta 90
_cell.angle_gamma 90
_symmetry.space_group_name_H-M 'P 21 21 21'
loop_
_refln.index_h
_refln.index_k
_refln.index_l
"""
