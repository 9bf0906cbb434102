//! A model in one file is the same model as its folder: the same latents and images, bit for bit.

use super::random_model::RandomModel;
use super::support::{fixtures, refused, stderr, stdout, works};
use portray::low_level::io::{SafeTensors, Tensor, write_safetensors};
use portray::low_level::ops::oracle::close;

#[test]
fn single_file_and_folder_give_the_same_latents() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for name in ["tiny-sd1", "tiny-sd2", "tiny-sd1-inpainting", "tiny-sd2-inpainting"] {
        let model = RandomModel::named(name, 3).unwrap();
        model.write_folder(&at.join(name)).unwrap();
        model.write_file(&at.join(format!("{name}.safetensors"))).unwrap();
        // What the file does not say is asked below.
        let options = match name.ends_with("-inpainting") {
            false => "--steps 2 --width 32 --height 24 --prediction epsilon",
            true => {
                "--init {F}/../inpaint/init.png --mask {F}/../inpaint/mask.png --steps 3 --sampler ddim --guidance 5 --seed 7 \
                 --prediction epsilon --dtype f32"
            }
        };
        for (model, out) in [(name.to_owned(), "a"), (format!("{name}.safetensors"), "b")] {
            let latents = format!("--latents-out {name}-{out}.safetensors --out {name}-{out}.png");
            let output = works(at, &format!("generate cat! --model {model} {options} {latents}"));
            assert!(!stderr(&output).contains("seems to predict"), "{}", stderr(&output));
        }
        let read = |file: String| std::fs::read(at.join(file)).unwrap();
        assert_eq!(read(format!("{name}-a.safetensors")), read(format!("{name}-b.safetensors")), "{name}");
        // Those of inpainting models are diffusers' (tests/fixtures/make_inpaint.py).
        let expected = SafeTensors::open(fixtures().join("../inpaint/single_file.safetensors")).unwrap();
        if let Some(expected) = expected.find(name) {
            let expected: Vec<f64> = expected.to_f32().unwrap().into_iter().map(f64::from).collect();
            let made = SafeTensors::open(at.join(format!("{name}-b.safetensors"))).unwrap();
            close(&made.get("latents").unwrap().to_f32().unwrap(), &expected, 1e-3)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
        } else {
            assert!(!name.ends_with("-inpainting"), "{name}");
        }
    }
    // What the file does not say is seen from one prediction, and said.
    for (name, more) in
        [("tiny-sd2", ""), ("tiny-sd2-inpainting", "--init {A}/subjects/cat/0.png --mask {A}/subjects/cat/1.png")]
    {
        let size = format!("--steps 1 --width 32 --height 32 --out probed-{name}.png");
        let output = works(at, &format!("generate cat --model {name}.safetensors {size} {more}"));
        assert!(stderr(&output).contains(&format!("{name}.safetensors seems to predict")), "{}", stderr(&output));
    }

    // Damaged and mismatched files: the file's own names, in one line.
    let changed = |name: &str, shape: &[usize], value: f32, row: usize| {
        let file = SafeTensors::open(at.join("tiny-sd2.safetensors")).unwrap();
        let mut values = vec![0.0; shape.iter().product()];
        values[row * shape[1..].iter().product::<usize>()] = value;
        let mut tensors: Vec<Tensor> = file.iter().filter(|t| t.name != name).collect();
        tensors.push(Tensor::f32(name, shape, &values));
        write_safetensors(at.join("changed.safetensors"), &tensors, &Default::default()).unwrap();
    };
    let generate =
        "generate cat --model changed.safetensors --prediction epsilon --steps 1 --width 32 --height 32 --out x.png";
    let conv = "model.diffusion_model.out.2.weight";
    changed(conv, &[4, 64, 3, 3], f32::NAN, 2);
    refused(at, generate, 1, &["changed.safetensors", conv, "holds NaN (element 1152)", "get it again"]);
    changed(conv, &[4, 60, 3, 3], 0.0, 0);
    refused(at, generate, 1, &[conv, "[4, 60, 3, 3]", "the file's other tensors", "[4, 64, 3, 3]"]);
    changed("cond_stage_model.model.positional_embedding", &[13, 128], 0.0, 0);
    refused(at, generate, 1, &["changed.safetensors", "77 tokens", "takes 13"]);

    let said = stdout(&works(at, "inspect tiny-sd2.safetensors"));
    assert!(said.contains("a single-file checkpoint") && said.contains("not said"), "{said}");
    std::fs::write(at.join("old.ckpt"), b"PK\x03\x04").unwrap();
    refused(at, "generate cat --model old.ckpt --out x.png", 1, &["old.ckpt", "Python pickle", ".safetensors"]);
    refused(at, "inspect old.ckpt", 1, &["old.ckpt", "Python pickle"]);
    refused(at, "generate cat --model tiny-sd2/unet --out x.png", 1, &["tiny-sd2/unet", "is one part of a model"]);
}
