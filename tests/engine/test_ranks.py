"""Models that two processes hold together, against a plain pass of one that is whole."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from pa_dist.engine.errors import EngineGone
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.load import load_model
from pa_dist.engine.protocol import TokenSequence
from pa_dist.engine.ranks import Ranks
from tests.engine.test_hf import FAMILIES, branching, check
