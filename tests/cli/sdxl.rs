//! Models of the SDXL family at the command line.

use super::common::xl;
use super::support::*;
use portray::low_level::io::SafeTensors;

/// Both text encoders, images and class images of two shapes, stopped and gone on with.
#[cfg(unix)]
#[test]
fn a_training_of_all_that_sdxl_has() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for (folder, sizes) in [("photos", &[(60, 60), (60, 60), (120, 60)][..]), ("classes", &[(64, 64), (50, 40)])] {
        std::fs::create_dir(at.join(folder)).unwrap();
        for (i, &(width, height)) in sizes.iter().enumerate() {
            picture(&at.join(folder).join(format!("{i}.png")), width, height);
        }
    }
    let model = xl("xl").display().to_string();
    let train = format!(
        "train --model {model} --images photos --prompt cat --class-prompt dog --class-images classes --resolution 48 \
         --bucket-step 32 --crop random --flip --targets all --text-encoder --rank 2 --lr 1e-2 --steps 4 --batch 2"
    );
    let output = works(at, &format!("{train} --format kohya --out whole.safetensors --sample-prompt cat"));
    let said = stderr(&output);
    assert!(said.contains("3 images at 32x32 (2), 64x32 (1)"), "{said}");
    assert!(at.join("whole-samples/step-000004-1.png").exists());
    // The last layer of the first encoder, behind the states that are read, is written as it began.
    let lora = SafeTensors::open(at.join("whole.safetensors")).unwrap();
    let largest = |encoder: &str, layer: usize, factor: &str| {
        let name = format!("lora_{encoder}_text_model_encoder_layers_{layer}_self_attn_q_proj.lora_{factor}.weight");
        let values = lora.get(&name).and_then(|tensor| tensor.to_f32()).unwrap();
        values.iter().fold(0.0f32, |most, value| most.max(value.abs()))
    };
    assert!(largest("te1", 1, "up") > 1e-3 && largest("te2", 1, "up") > 1e-3);
    assert!(largest("te1", 2, "up") == 0.0 && largest("te1", 2, "down") > 1e-3);

    let train = format!("{train} --evaluate-every 2");
    interrupted(at, &format!("{train} --format kohya --out parts.safetensors"), |said| said["step"] == 1);
    works(at, &format!("{train} --format kohya --out parts.safetensors --resume"));
    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    assert!(read("whole.safetensors") == read("parts.safetensors"));
}

/// What a whole model was trained to predict is what its folder says.
#[test]
fn a_whole_model_says_what_it_predicts() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("photos")).unwrap();
    picture(&dir.path().join("photos/0.png"), 48, 48);
    let model = xl("xl").display().to_string();
    let train = "--images photos --prompt cat --resolution 48 --steps 1 --method full";
    for (options, says) in [("--prediction v", "v_prediction"), ("", "epsilon")] {
        works(dir.path(), &format!("train --model {model} {train} {options} --out {says}"));
        let text = std::fs::read_to_string(dir.path().join(says).join("scheduler/scheduler_config.json")).unwrap();
        let scheduler: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(scheduler["prediction_type"], says);
        assert_eq!(scheduler["_class_name"], "EulerDiscreteScheduler");
    }
}

/// What no model can do is refused in one line, before anything runs.
#[test]
fn conditioning_out_of_range_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let model = xl("xl").display().to_string();
    for (option, says) in [
        ("--clip-skip 9", "--clip-skip 9: must be at most 1"),
        ("--guidance-rescale 2", "--guidance-rescale 2.0: must lie between 0 and 1"),
    ] {
        let line = format!("generate cat --model {model} {option} --out a.png");
        refused(dir.path(), &line, 2, &[says]);
        let said = stderr(&run(dir.path(), &line));
        assert_eq!(said.trim().lines().count(), 1, "{said}");
    }
}
