"""Optimizers as chains: every link is a term of the equation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from valleys.optax._checks import check_options, check_state_dtype
from valleys.optax._explore import adapt
from valleys.optax._layerwise import as_mask, chosen_leaves, layerwise
from valleys.optax._moments import scale_by_moments
from valleys.optax._precision import in_full_precision, map_gradients

_BOTH = ("momentum", "second_moment")


def alto(
    learning_rate: Any,
    betas: tuple[Any, Any] = (0.9, 0.99),
    alpha: Any = -5.0,
    beta: Any = 0.99,
    eps: Any = 1e-6,
    weight_decay: Any = 1e-4,
    *,
    trust_eps: Any = 1e-6,
    norm_eps: Any = 1e-10,
    bias_correction: bool = True,
    layer_adaptation: bool | str = "matrices",
    trust_clip: Any = None,
    accelerate: tuple[str, ...] = _BOTH,
    mask: Any = None,
    layer_mask: Any = None,
    state_dtype: Any = None,
    axis_name: Any = None,
) -> Any:
    r"""LAMB fed by E, the update of :class:`valleys.ALTO`.

    .. math::
        m_k &= \beta_2 m_{k-1} + (1-\beta_2) \tilde g_k, \qquad
        v_k = \beta_3 v_{k-1} + (1-\beta_3) \tilde g_k^2 \\
        r_k &= \frac{m_k / (1-\beta_2^k)}{\sqrt{v_k / (1-\beta_3^k)} + \epsilon_1} + \lambda \theta_{k-1} \\
        \theta_k &= \theta_{k-1} - \eta\, r_k \frac{\phi(|\theta|)}{|r_k| + \epsilon_2 \phi(|\theta|)},
        \qquad \phi(x) = x + \epsilon_3

    for each leaf ("layer") by itself, with the gradient of :func:`adapt` for :math:`\tilde g` and the two exceptions of
    :func:`layerwise`; leaves of fewer than two dimensions have neither ratio nor weight decay by default. All of it is
    computed in float32 or better. Clip gradients by putting ``optax.clip_by_global_norm`` before it.

    Args:
        learning_rate: >= 0, a number, a schedule or an array: the relative length of a layer's step.
        betas: decay rates of the first and the second moment, each in [0, 1). Default: (0.9, 0.99).
        alpha: strength of E, ``|alpha| * (1 - beta) < 1``; a number, a schedule or an array. The number 0 is LAMB,
            without E's buffer. Default: -5.
        beta: memory of E, in [0, 1). Default: 0.99.
        eps: eps1, >= 0, added to the root of the second moment. Default: 1e-6.
        weight_decay: lambda, >= 0, a number, a schedule or an array; part of the update whose length the ratio sets.
            Default: 1e-4.
        trust_eps: eps2, >= 0. Default: 1e-6.
        norm_eps: eps3, >= 0. Default: 1e-10.
        bias_correction: divide the moments by 1 - beta^k (Alg. 2); False is Alg. 1. Default: True.
        layer_adaptation: which leaves get the ratio. "matrices": those of two or more dimensions; others (biases, norm
            gains, scalars) get neither ratio nor weight decay, that is Adam's update, unless a mask says otherwise.
            True: all, the paper's Alg. 2. False: none. Default: "matrices".
        trust_clip: bounds of the ratio, ``(low, high)`` or the upper one. Default: None, no bounds.
        accelerate: the moments that E's gradient enters, of "momentum" and "second_moment". Default: both.
        mask: where weights decay: tree of bools like the parameters, or a prefix of it, or a function that makes one of
            the parameters. Default: None, as ``layer_adaptation`` says.
        layer_mask: the same for the ratio. Default: None, as ``layer_adaptation`` says.
        state_dtype: dtype of E's buffer and the first moment: None (the parameter's, but float32 for half precision),
            "float32", or "bfloat16", rounded to nearest. The second moment never rounds to bfloat16. Default: None.
        axis_name: inside ``shard_map``, the axes that parameters are cut along; see :func:`layerwise`. Default: None.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` that needs the parameters in ``update``.

    Raises:
        ValueError: an option out of range, as far as it is a number; ``layer_mask`` without layer adaptation.

    Example:
        >>> import jax.numpy as jnp, optax, valleys.optax
        >>> optimizer = valleys.optax.alto(0.1, weight_decay=0.0)
        >>> params = {"w": jnp.array([[3.0, 4.0]]), "b": jnp.array([0.0])}
        >>> grads = {"w": jnp.array([[1.0, -1.0]]), "b": jnp.array([2.0])}
        >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
        >>> new = optax.apply_updates(params, updates)
        >>> [round(float(x), 4) for x in new["w"][0]]  # a step of length 0.1 |w| = 0.5 along (-1, 1)
        [2.6464, 4.3536]

    Source: Zhao et al. 2025 (arXiv 2510.27153), Alg. 2 and, without bias correction, Alg. 1.
    """
    options = {
        "eps": eps,
        "weight_decay": weight_decay,
        "layer_adaptation": layer_adaptation,
        "accelerate": accelerate,
    }
    check_options(learning_rate, betas, options, explore=(alpha, beta))
    b2, b3 = betas
    mask = as_mask(mask)
    if layer_adaptation == "matrices":
        mask, layer_mask = (_matrices if choice is None else choice for choice in (mask, layer_mask))
    dtype = check_state_dtype(state_dtype)
    explore = adapt(alpha, beta, state_dtype=dtype)
    direction = optax.chain(
        scale_by_moments(explore, b2, b3, eps, bias_correction=bias_correction, accelerate=accelerate, mu_dtype=dtype),
        _add_decayed_weights(weight_decay, mask),
    )
    # Checks its options, used or not.
    adapted = layerwise(
        direction, trust_eps=trust_eps, norm_eps=norm_eps, trust_clip=trust_clip, mask=layer_mask, axis_name=axis_name
    )
    if not layer_adaptation and layer_mask is not None:
        raise ValueError("layer_mask has no effect with layer_adaptation=False; leave one of them unset")
    return in_full_precision(
        optax.chain(adapted if layer_adaptation else direction, optax.scale_by_learning_rate(learning_rate))
    )


def lamb(  # noqa: D417
    learning_rate: Any,
    betas: tuple[Any, Any] = (0.9, 0.999),
    eps: Any = 1e-6,
    weight_decay: Any = 0.01,
    *,
    trust_eps: Any = 1e-6,
    norm_eps: Any = 1e-10,
    bias_correction: bool = True,
    layer_adaptation: bool | str = "matrices",
    trust_clip: Any = None,
    mask: Any = None,
    layer_mask: Any = None,
    state_dtype: Any = None,
    axis_name: Any = None,
) -> Any:
    r"""LAMB, the update of :class:`valleys.Lamb`: :func:`alto` at alpha = 0, without E's buffer.

    .. math::
        \theta_k = \theta_{k-1} - \eta\, r_k \frac{\phi(|\theta|)}{|r_k| + \epsilon_2 \phi(|\theta|)}, \qquad
        r_k = \frac{m_k / (1-\beta_2^k)}{\sqrt{v_k / (1-\beta_3^k)} + \epsilon_1} + \lambda \theta_{k-1}

    The baseline for :func:`alto`. With ``trust_eps=0, norm_eps=0`` it is ``optax.lamb``, but for tensors whose gradient
    is exactly zero.

    Args:
        learning_rate: as in :func:`alto`.
        betas: decay rates of the first and second moment, each in [0, 1). Default: (0.9, 0.999).
        eps: eps1, >= 0. Default: 1e-6.
        weight_decay: lambda, >= 0. Default: 0.01.
        trust_eps: eps2, >= 0; 0 is LAMB's own ratio. Default: 1e-6.
        norm_eps: eps3, >= 0; 0 is LAMB's own ratio. Default: 1e-10.
        bias_correction, layer_adaptation, trust_clip, mask, layer_mask, axis_name: as in :func:`alto`.
        state_dtype: dtype of the first moment, as in :func:`alto`. Default: None.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` that needs the parameters in ``update``.

    Raises:
        ValueError: an option out of range, as far as it is a number; ``layer_mask`` without layer adaptation.

    Example:
        >>> import jax.numpy as jnp, optax, valleys.optax
        >>> optimizer = valleys.optax.lamb(0.1, weight_decay=0.0)
        >>> params = jnp.array([[3.0, 4.0]])
        >>> updates, _ = optimizer.update(jnp.array([[1.0, -1.0]]), optimizer.init(params), params)
        >>> [round(float(update), 4) for update in updates[0]]
        [-0.3536, 0.3536]

    Source: You et al. 2019 (arXiv 1904.00962), Alg. 2; phi and eps2 as in Zhao et al. 2025 (arXiv 2510.27153).
    """
    check_options(learning_rate, betas, {"eps": eps, "weight_decay": weight_decay})
    return alto(
        learning_rate,
        betas,
        0.0,
        0.0,
        eps,
        weight_decay,
        trust_eps=trust_eps,
        norm_eps=norm_eps,
        bias_correction=bias_correction,
        layer_adaptation=layer_adaptation,
        trust_clip=trust_clip,
        mask=mask,
        layer_mask=layer_mask,
        state_dtype=state_dtype,
        axis_name=axis_name,
    )


def _add_decayed_weights(weight_decay: Any, mask: Any) -> Any:
    """optax's, where the mask may be a function of the parameters although gradients are missing."""
    decay = optax.add_decayed_weights(weight_decay)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        decayed, state = decay.update(updates, state, params)
        leaves = chosen_leaves(mask, updates, params)
        return map_gradients(lambda update, new, on: new if on else update, updates, decayed, leaves), state

    return decay if mask is None else optax.GradientTransformation(decay.init, update)


def _matrices(params: Any) -> Any:
    """A mask of the leaves of two or more dimensions."""
    return jax.tree.map(lambda x: jnp.ndim(x) >= 2, params)


def esgd(  # noqa: D417
    learning_rate: Any,
    momentum: Any = 0.9,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    *,
    alpha: Any = -5.0,
    beta: Any = 0.99,
    state_dtype: Any = None,
) -> Any:
    r"""SGD with E: ``adapt`` before ``optax.sgd``.

    .. math:: m = \beta_2 m + \tilde g, \qquad \theta \leftarrow \theta - \eta\, m

    Args:
        learning_rate: a number, a schedule or an array.
        momentum: b2, in [0, 1). Default: 0.9, Alg. 3's.
        nesterov: as in ``optax.sgd``. Default: False.
        accumulator_dtype: dtype of m, as in ``optax.sgd``. Default: None.
        alpha, beta, state_dtype: as in :func:`adapt`.

    Returns:
        An ``optax.GradientTransformationExtraArgs``.

    Raises:
        ValueError: alpha, beta or state_dtype out of range.

    Example:
        >>> import jax.numpy as jnp, valleys.optax
        >>> optimizer = valleys.optax.esgd(1.0, alpha=0.5, beta=0.0)
        >>> optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))[0]
        Array([-1.5, -1.5], dtype=float32)

    Source: Zhao et al. 2025 (arXiv 2510.27153), Alg. 3.
    """
    return optax.chain(
        adapt(alpha, beta, state_dtype=state_dtype), optax.sgd(learning_rate, momentum, nesterov, accumulator_dtype)
    )


def eadam(  # noqa: D417
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    alpha: Any = -5.0,
    beta: Any = 0.99,
    state_dtype: Any = None,
) -> Any:
    r"""Adam with E: ``adapt`` before ``optax.adam``, so that both moments see g + alpha a.

    .. math:: \theta \leftarrow \theta - \eta\, \hat m / (\sqrt{\hat v} + \epsilon)

    Args:
        learning_rate: a number, a schedule or an array.
        b1: decay rate of the first moment, the paper's beta2. Default: 0.9.
        b2: decay rate of the second moment, the paper's beta3. Default: 0.999.
        eps, eps_root, mu_dtype, nesterov: as in ``optax.adam``, with its defaults.
        alpha, beta, state_dtype: as in :func:`adapt`.

    Returns:
        An ``optax.GradientTransformationExtraArgs``.

    Raises:
        ValueError: alpha, beta or state_dtype out of range.

    Example:
        >>> import jax.numpy as jnp, valleys.optax
        >>> optimizer = valleys.optax.eadam(0.1)
        >>> updates, _ = optimizer.update(jnp.array([3.0, -3.0]), optimizer.init(jnp.ones(2)))
        >>> [round(float(update), 4) for update in updates]
        [-0.1, 0.1]

    Source: Zhao et al. 2025 (arXiv 2510.27153), Alg. 4.
    """
    return optax.chain(
        adapt(alpha, beta, state_dtype=state_dtype),
        optax.adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
    )


def eadamw(  # noqa: D417
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
    alpha: Any = -5.0,
    beta: Any = 0.99,
    state_dtype: Any = None,
) -> Any:
    r"""AdamW with E: ``adapt`` before ``optax.adamw``, whose weight decay E does not see.

    .. math:: \theta \leftarrow \theta - \eta\, (\hat m / (\sqrt{\hat v} + \epsilon) + \lambda \theta)

    Args:
        learning_rate: a number, a schedule or an array.
        b1, b2, alpha, beta, state_dtype: as in :func:`eadam`.
        eps, eps_root, mu_dtype, nesterov: as in ``optax.adamw``, with its defaults.
        weight_decay: lambda, as in ``optax.adamw``. Default: 1e-4, optax's; torch's, and so ``valleys.EAdamW``'s, is
            1e-2.
        mask: where weights decay, as in ``optax.adamw``. Default: None, everywhere.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` that needs the parameters in ``update``.

    Raises:
        ValueError: alpha, beta or state_dtype out of range.

    Example:
        >>> import jax.numpy as jnp, valleys.optax
        >>> optimizer = valleys.optax.eadamw(0.1, weight_decay=0.5)
        >>> params = jnp.array([2.0])
        >>> updates, _ = optimizer.update(jnp.array([3.0]), optimizer.init(params), params)
        >>> round(float(updates[0]), 4)
        -0.2

    Source: Zhao et al. 2025 (arXiv 2510.27153), Algs. 4 and 5.
    """
    return optax.chain(
        adapt(alpha, beta, state_dtype=state_dtype),
        optax.adamw(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, as_mask(mask), nesterov=nesterov),
    )
