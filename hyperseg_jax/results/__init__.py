"""What becomes of a model's outputs.

From outputs to predictions
    answers         the rules on arrays: resize to the image, scores of queries, panoptic, semantic and instance masks
    postprocess     one function for each way to ask: (prompt, outputs, geometry, thresholds) -> structs.Prediction
    objects         masks of several prompts about one frame -> a map of objects
    tracking        instances of single frames -> tracks over a video
For people and servers
    drawing         overlays, targets beside predictions, contact sheets
    page            a self-contained HTML page
    server/         files for the benchmarks' evaluation servers, one format a file
"""
