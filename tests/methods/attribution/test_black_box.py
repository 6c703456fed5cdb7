"""Models that are no module here are explained as well as those that are."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

import pipeline
from pipeline.methods.attribution import ATTRIBUTIONS, FiniteDifferences, Gradient, Score, attribute
from pipeline.methods.attribution.black_box import FromNumpy, from_onnx, from_scikit_learn, from_torchscript
from pipeline.methods.attribution.finite_differences import StepWarning
from pipeline.methods.attribution.method import BlackBoxMethod
from tests.methods.attribution.support import IMAGE, background_of, batch_of, smooth_net

BLACK_BOX = [method for method in ATTRIBUTIONS if issubclass(method, BlackBoxMethod)]
WHITE_BOX = [method for method in ATTRIBUTIONS if not issubclass(method, BlackBoxMethod)]


@pytest.mark.parametrize("method", BLACK_BOX, ids=lambda m: m.__name__)
def test_a_function_is_explained_as_the_module_that_it_calls(method):
    model, (x, score, background) = smooth_net(), batch_of(IMAGE)
    expected = attribute(method(), model, x, score, background=background).phi_BCHW
    found = attribute(method(), lambda x: model(x), x, score, background=background).phi_BCHW
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("method", WHITE_BOX, ids=lambda m: m.__name__)
def test_a_method_that_looks_into_the_model_refuses_a_function_and_says_which_do_not(method):
    x, score, background = batch_of(IMAGE)
    with pytest.raises(ValueError, match=r"looks into the model .* got function; methods that only call the model: .*finite_differences"):
        attribute(method(), lambda x: x.flatten(1), x, score, background=background)


def test_a_torchscript_file_has_the_gradient_of_its_module(tmp_path: Path):
    model, (x, score, background) = smooth_net(), batch_of(IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch advises against writing such files.
        torch.jit.save(torch.jit.trace(model, x), tmp_path / "model.pt")
    found = attribute(FiniteDifferences(difference="central"), from_torchscript(tmp_path / "model.pt"), x, score, background=background)
    torch.testing.assert_close(found.phi_BCHW, Gradient()(model, x, score, background=background), rtol=0, atol=1e-6)


def written_linear(file: Path, weight_FK: np.ndarray) -> None:
    kind = onnx.helper.np_dtype_to_tensor_dtype(weight_FK.dtype)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "weight"], ["logits"])],
        "linear",
        [onnx.helper.make_tensor_value_info("x", kind, ["B", weight_FK.shape[0]])],
        [onnx.helper.make_tensor_value_info("logits", kind, ["B", weight_FK.shape[1]])],
        [onnx.numpy_helper.from_array(weight_FK, "weight")],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), file)


@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 1e-11), (np.float32, 1e-3)])
def test_an_onnx_file_is_asked_in_its_own_precision(dtype, error, tmp_path: Path):
    weight = np.random.default_rng(0).normal(size=(8, 3)).astype(dtype)
    written_linear(tmp_path / "model.onnx", weight)
    x, score, background = batch_of((8,))
    found = attribute(FiniteDifferences(), from_onnx(tmp_path / "model.onnx"), x, score, background=background)
    # In float32 answers near 1 have an error of 1e-7, over a step of 1e-3.
    torch.testing.assert_close(found.phi_BCHW, torch.from_numpy(weight).double().T[score.target_B], rtol=0, atol=error)


def test_a_missing_onnxruntime_is_named_with_what_to_install(tmp_path: Path):
    written_linear(tmp_path / "model.onnx", np.ones((2, 2)))
    script = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from pathlib import Path\n"
        "from pipeline.methods.attribution.black_box import from_onnx\n"
        f"from_onnx(Path({str(tmp_path / 'model.onnx')!r}))\n"
    )
    root = Path(pipeline.__file__).parents[1]
    told = subprocess.run([sys.executable, "-c", script], cwd=root, check=False, capture_output=True, text=True).stderr
    assert "needs onnxruntime, which is not installed; run `pip install 'attrain[onnx]'`" in told


@pytest.mark.parametrize("read", [from_onnx, from_torchscript])
def test_a_file_that_is_missing_or_something_else_is_named(read, tmp_path: Path):
    with pytest.raises(ValueError, match=r"wanted a model file, but there is none at .*nothing"):
        read(tmp_path / "nothing")
    (tmp_path / "text").write_text("no model")
    with pytest.raises(ValueError, match=r"text is no (ONNX|TorchScript) file"):
        read(tmp_path / "text")


def test_a_classifier_of_scikit_learn_has_the_gradient_of_its_probabilities():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(200, 8)), rng.integers(3, size=200)
    classifier = LogisticRegression().fit(features, labels)
    x, score = torch.from_numpy(features[:5]), Score(torch.tensor([0, 1, 2, 0, 1]))
    probability = torch.from_numpy(classifier.predict_proba(features[:5]))
    weight = torch.from_numpy(classifier.coef_)
    # d p_k / d x = p_k (w_k - sum_j p_j w_j)
    chosen = probability.gather(1, score.target_B[:, None])
    expected = chosen * (weight[score.target_B] - probability @ weight)
    found = attribute(FiniteDifferences(difference="central"), from_scikit_learn(classifier), x, score)
    torch.testing.assert_close(found.phi_BCHW, expected, rtol=0, atol=1e-6)
    images = attribute(FiniteDifferences(difference="central"), from_scikit_learn(classifier), x.reshape(5, 2, 2, 2), score)
    torch.testing.assert_close(images.phi_BCHW.flatten(1), found.phi_BCHW, rtol=0, atol=1e-11)


def test_a_forest_is_told_of_as_piecewise_constant():
    rng = np.random.default_rng(0)
    forest = RandomForestClassifier(3, random_state=0).fit(rng.normal(size=(50, 8)), rng.integers(3, size=50))
    x, score = torch.full((2, 8), 100.0).double(), Score(torch.tensor([0, 1]))  # Far from any place where a tree splits.
    with pytest.warns(StepWarning, match="2 of 2 samples"):
        attribute(FiniteDifferences(), from_scikit_learn(forest), x, score, background=background_of(x))


def test_a_function_of_arrays_keeps_the_precision_of_its_answers():
    x = torch.zeros(4, 2)
    assert FromNumpy(lambda x: x.astype(np.float64).sum(1))(x).dtype == torch.float64
    assert FromNumpy(lambda x: x.sum(1))(x).shape == (4, 1)
    with pytest.raises(ValueError, match=r"wanted 4 rows of classes .* shape \(2,\)"):
        FromNumpy(lambda x: x.sum(0))(x)
