"""Functions without parameters.

On the device (JAX; float32 inside, under any precision policy):
    attention         scaled dot-product attention
    fused_attention   attention kernels of TPUs and GPUs
    deformable        multi-scale deformable sampling, with a custom backward pass
    patches           bilinear sampling from tables of 2x2 patches
    sampling          bilinear sampling and resizing with PyTorch's conventions
    positions         fixed sine position embeddings of feature maps
    simulated_clicks  the next click of a simulated user
    matching          optimal assignment of queries to targets
    neighbours        similar cells of an image, and smoothing over them
    padding           arrays with more or fewer entries of an axis

On the host (NumPy):
    transforms    resizes images and masks to the input sizes of the encoders
    fixed_point_resize  resizes 8-bit images like OpenCV
    run_lengths   run-length encoding of masks in COCO's format
    segment_maps  segment maps of masks, in several planes if masks overlap
    dilation      dilation of masks
    fill_poly     rasterizes polygons like OpenCV's fillPoly
"""
