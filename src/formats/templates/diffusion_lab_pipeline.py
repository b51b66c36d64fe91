"""The pipeline of a model of diffusion-lab in diffusers, with classes and classifier-free guidance."""

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class DiffusionLabPipeline(DiffusionPipeline):
    """Draw samples: `pipe(batch_size=16, class_labels=[3] * 16, guidance_scale=2.0).images`.

    Args:
        unet: predicts the data.
        scheduler: any of diffusers that steps from predictions of the data.
        guidance_scale: of classifier-free guidance; 1 for none.
        num_inference_steps: number of steps.
        class_weights: probabilities of the classes of new samples; None for all in turn.
        clip: lowest and highest values that are predicted, of all channels or of each; None for no clipping.
        images: True for images, which are in [-1, 1].
    """

    def __init__(
        self, unet, scheduler, guidance_scale=1.0, num_inference_steps=50, class_weights=None, clip=None, images=True
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(
            guidance_scale=guidance_scale, num_inference_steps=num_inference_steps, class_weights=class_weights,
            clip=clip, images=images,
        )  # fmt: skip

    @torch.no_grad()
    def __call__(
        self, batch_size=1, generator=None, class_labels=None, guidance_scale=None, num_inference_steps=None,
        latents=None, output_type="pil", return_dict=True,
    ):  # fmt: skip
        size, device = self.unet.config.sample_size, self._execution_device
        shape = (batch_size, self.unet.config.in_channels, *size)
        x = (
            randn_tensor(shape, generator=generator, device=device, dtype=self.unet.dtype)
            if latents is None
            else latents
        )
        labels = self.draw_labels(batch_size, generator) if class_labels is None else torch.as_tensor(class_labels)
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        self.scheduler.set_timesteps(num_inference_steps or self.config.num_inference_steps)
        for t in self.progress_bar(self.scheduler.timesteps):
            x = self.scheduler.step(self.predict(self.scheduler.scale_model_input(x, t), t, labels, scale), t, x,
                                    return_dict=False)[0]  # fmt: skip
        if not self.config.images or output_type == "raw":
            return ImagePipelineOutput(images=x) if return_dict else (x,)
        x = (x / 2 + 0.5).clamp(0, 1)
        images = x if output_type == "pt" else x.cpu().permute(0, 2, 3, 1).float().numpy()
        images = self.numpy_to_pil(images) if output_type == "pil" else images
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def predict(self, x, t, labels, scale):
        """The guided and clipped prediction of the data."""
        x_0 = self.guided(x, t, labels, scale)
        if self.config.clip is None:
            return x_0
        low, high = (torch.tensor(end).to(x_0).view(1, -1, *[1] * (x_0.ndim - 2)) for end in self.config.clip)
        return torch.minimum(torch.maximum(x_0, low), high)

    def guided(self, x, t, labels, scale):
        """The guided prediction."""
        if labels is None or scale == 1:
            return self.unet(x, t, labels).sample
        labels = labels.to(x.device)
        both = torch.cat([labels, torch.full_like(labels, -1)])
        conditional, unconditional = self.unet(torch.cat([x, x]), t, both).sample.chunk(2)
        return torch.lerp(unconditional, conditional, scale)

    def draw_labels(self, n, generator):
        """The classes of n new samples; None without classes."""
        classes = self.unet.config.num_classes
        if not classes:
            return None
        if self.config.class_weights is None:
            return torch.arange(n) % classes
        first = generator[0] if isinstance(generator, list) else generator
        weights = torch.tensor(self.config.class_weights)
        return torch.multinomial(weights.to("cpu" if first is None else first.device), n, True, generator=first)
