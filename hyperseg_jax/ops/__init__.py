"""Mathematics without parameters.

On the device (JAX; float32 inside, under any precision policy):
    attention    scaled dot-product attention
    deformable   multi-scale deformable sampling, with its own backward pass
    sampling     bilinear sampling and resizing with PyTorch's conventions
    positions    fixed sine position embeddings of feature maps
    matching     optimal assignment of queries to targets

On the host (NumPy):
    transforms    images to the fixed sizes of the encoders, and back
    run_lengths   run-length coding of masks, as COCO writes it
    segment_maps  masks as maps of segment numbers, in planes where they overlap
    dilation      dilation of masks
    fill_poly     polygons painted as OpenCV's fillPoly paints them
"""
