"""From model outputs to predictions, images and result files.

From outputs to predictions
    mask_resize     resizes mask logits to the image size, on the device
    selection       selects the queries that answer a prompt, and their masks, on the device
    answers         converts selected queries to structs.Prediction, on the host; answer kinds and thresholds
    names           matches the names that a model wrote with a class list
    proposals       filters the masks that a grid of points proposes, on the device
    objects         merges the masks of several prompts about one frame into an object map
    tracking        links instances of single frames into tracks over a video
    instances       the instances of a class list on each frame of a video, with their track ids
For people and evaluation servers
    drawing         draws masks on images, targets beside predictions, and grids of such tiles
    page            a self-contained HTML page
    server/         submission files for the benchmarks' evaluation servers, one module per format
"""
