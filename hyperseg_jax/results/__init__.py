"""What becomes of a model's outputs.

From outputs to predictions
    mask_resize     mask logits at the size of the image, on the device
    selection       which queries answer a prompt, and their masks, on the device
    answers         what was selected -> structs.Prediction, on the host; the kinds of answers and their thresholds
    objects         masks of several prompts about one frame -> a map of objects
    tracking        instances of single frames -> tracks over a video
For people and servers
    drawing         overlays, targets beside predictions, contact sheets
    page            a self-contained HTML page
    server/         files for the benchmarks' evaluation servers, one format a file
"""
