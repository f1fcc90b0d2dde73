"""My own model and data for Ostraka; the federation file names it as app = "app:app"."""

from torch import nn, tensor

from ostraka.learn.app import App, Examples
from ostraka.learn.data import load

digits = load("digits")


def model():
    hidden = [nn.Flatten(), nn.Linear(64, 48), nn.GroupNorm(4, 48), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(48, digits.classes))


def train_data(site):  # a real site reads its own files here, from site.data_dir
    mine = slice(site.party, None, site.parties)
    return Examples(tensor(digits.train_x[mine]), tensor(digits.train_y[mine]))


def test_data(data_dir):
    return Examples(tensor(digits.test_x), tensor(digits.test_y))


app = App(model, train_data, test_data)
