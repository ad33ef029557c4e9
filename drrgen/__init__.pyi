from drrgen.choices import View as View
from drrgen.geometry.detector import Detector as Detector
from drrgen.geometry.pose import make_pose as make_pose
from drrgen.io.radiographs import write_radiograph as write_radiograph
from drrgen.io.volumes import read_volume as read_volume
from drrgen.physics.display import to_radiograph as to_radiograph
from drrgen.renderer.render import render as render
from drrgen.volume import CTVolume as CTVolume
