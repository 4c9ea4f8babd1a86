"""Changes of latents that a user writes."""

import pytest
import torch

from audio_tokenizers.acoustic.latent_edits import LatentEdits, parse_edits


def test_changes_add_scale_and_set_a_dimension() -> None:
    edits = LatentEdits(parse_edits("0:+1.5, 3:*0.5,2:=-.25,1:-2"), frame_rate=10, latent_size=4)
    latents = torch.ones(1, 4, 3)
    changed = edits(latents, 0)
    assert changed[0, :, 0].tolist() == [2.5, -1, -0.25, 0.5]
    assert torch.equal(changed[..., :1].expand_as(changed), changed)
    assert torch.equal(latents, torch.ones(1, 4, 3))


def test_changes_over_time_are_interpolated_and_do_not_depend_on_pieces() -> None:
    edits = LatentEdits(parse_edits("0:+0@1,0:+2@2,0:*3"), frame_rate=10, latent_size=2)
    whole = edits(torch.ones(1, 2, 40), 0)
    assert whole[0, 0, [0, 10, 15, 20, 39]].tolist() == pytest.approx([3, 3, 6, 9, 9])
    assert (whole[0, 1] == 1).all()
    parts = [edits(torch.ones(1, 2, n), first) for first, n in ((0, 7), (7, 0), (7, 33))]
    assert torch.equal(torch.cat(parts, dim=2), whole)


def test_other_texts_are_refused() -> None:
    for wrong in ("", "0", "0:1", "x:+1", "0:+", "0:+1@", "0:/2", "0:+1;1:+1", "-1:+1", "0:+1e9"):
        with pytest.raises(ValueError, match=r"is not a change of a latent. Write DIMENSION:\+NUM"):
            parse_edits(wrong)
    with pytest.raises(ValueError, match=r"Got two values for 0:\+ at 0 s"):
        parse_edits("0:+1,0:+2")
    with pytest.raises(ValueError, match=r"no latent dimension 4; this codec has 0 to 3"):
        LatentEdits(parse_edits("4:+1"), frame_rate=10, latent_size=4)
