"""The Mixture-of-Transformers with eyes: all of BAGEL's network, under the names of ``ema.safetensors``.

A picture can be read in two ways, each one block of tokens at one position that stays in the context: through the
vision transformer (what is to be seen, understanding expert) and as clean latents (how it looks in detail, generation
expert at time 0). Editing reads it both ways, latents first. Source: BAGEL (arXiv 2505.14683).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unigrpo.core.errors import UserError
from unigrpo.models.backbones.bagel.vit import Connector, VisionTransformer, VitConfig
from unigrpo.models.mot import MoT, MoTConfig
from unigrpo.models.mot_layers import PositionTable, patchify, position_ids
from unigrpo.models.mot_pieces import Context, Input, See


class MultimodalMoT(MoT):
    """Text and pictures in; text and velocities out."""

    def __init__(self, config: MoTConfig, vit: VitConfig):
        super().__init__(config)
        self.vit = vit
        self.vit_model = nn.ModuleDict({"vision_model": VisionTransformer(vit)})
        self.connector = Connector(vit.hidden_size, config.hidden_size)
        self.vit_pos_embed = PositionTable(vit.side, config.hidden_size)

    def see(self, pixels: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], sides multiples of the patch -> tokens of the decoder (B, N, D), row by
        row. Raises UserError for sides that the position table does not have."""
        sides = pixels.shape[-2:]
        if any(n % self.vit.patch or not 0 < n <= self.vit.side * self.vit.patch for n in sides):
            largest = self.vit.side * self.vit.patch
            raise UserError(
                f"picture of {sides[0]} x {sides[1]} pixels: expected multiples of {self.vit.patch} up to {largest}"
            )
        places = position_ids(*(n // self.vit.patch for n in sides), self.vit.side, pixels.device)
        seen = self.vit_model["vision_model"](patchify(pixels, self.vit.patch), places)
        return self.connector(seen) + self.vit_pos_embed(places)

    def embed_picture(self, pixels: Tensor) -> Tensor:
        """Inputs (B, N + 2, D) of a picture's block: start token, tokens of :meth:`see`, end token."""
        ends = torch.tensor([self.config.start_of_image_id, self.config.end_of_image_id], device=pixels.device)
        start, end = self.language_model.model.embed_tokens(ends).expand(len(pixels), -1, -1).split(1, 1)
        return torch.cat([start, self.see(pixels), end], 1)

    def read_block(self, context: Context, streams: list[tuple[str, Tensor]]) -> tuple[list[Tensor], Context]:
        """Hidden states of an image block by stream, and the context with the block in it: its keys and values in the
        order of ``streams``, the next free position one further. The block [start, latents, end] shares one position
        and attends to the context and to all of itself."""
        own = sum(x.shape[1] for _, x in streams)
        mask = None if context.mask is None else F.pad(context.mask, (0, own), value=True)
        visible = None if mask is None else mask[:, None]
        (out,) = self.run([Input(streams, context.rope[:, None], (See(context),), visible)])
        return out.hidden, context.followed(out, mask, context.rope + 1)

    def read_picture(self, context: Context, pixels: Tensor) -> Context:
        """The context after a look at the pictures, pixels as for :meth:`see`."""
        return self.read_block(context, [("", self.embed_picture(pixels))])[1]

    def read_latents(self, context: Context, latents: Tensor, grid: tuple[int, int]) -> Context:
        """The context after clean latent tokens (B, N, token_dim) of pictures, grid (rows, cols) with N tokens."""
        und, gen = self.embed_block(latents, latents.new_zeros(len(latents)), grid)
        return self.read_block(context, [("", und), ("_moe_gen", gen)])[1]
