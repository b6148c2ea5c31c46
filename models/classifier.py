"""Image classification on a segmentation network's encoder: the study's pre-training head (paper Section 2.4.2)."""

from torch import Tensor, nn

from models.segmenter import Network, Segmenter


class Classifier(Network):
    """Encoder, global average pooling, dropout, linear layer; emits logits, one a class.

    `features` is the number of pooled features. The backbone is taken over from a segmentation network whose last
    feature map is its deepest, a U-Net.
    """

    def __init__(self, network: Segmenter, classes: int):
        super().__init__()
        self.backbone = network.backbone
        self.features: int = network.backbone.channels
        self.linear = nn.Linear(self.features, classes)

    def forward(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Images (N, 1, H, W) -> logits (N, classes), float32.

        kept: dropout's factors (N, features), 0 where a feature is dropped; None to drop nothing. They come from
        outside, because nn.Dropout would draw them from the state that a process happens to be in.
        """
        pooled = self.backbone(self.normalise(images))[-1].mean(dim=(2, 3))
        if kept is not None:
            pooled = pooled * kept
        return self.linear(pooled).float()
