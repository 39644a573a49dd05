"""Functions of the author's own modules: the package beside this script goes along, data files too, and is imported there."""

import numpy as np
from heatflow.plate import Plate, heated

from plover import gpu_function

heat = gpu_function(heated)  # an imported function goes by name, and its package as files

if __name__ == "__main__":
    plate = Plate(np.zeros((9, 9)))
    while plate.middle < 50:
        plate = heat(plate, 10)  # edit heatflow/*.py meanwhile, and the next call has the new version
    print(f"{plate.middle:.1f} degrees after {plate.steps} steps, in a {type(plate).__module__}.{type(plate).__name__}")
    print("it came home as this script's own class:", isinstance(plate, Plate))
