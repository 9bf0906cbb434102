//! `portray embed`: images and texts to embeddings, by a vision model.

use std::path::{Path, PathBuf};

use portray::error::option;
use portray::low_level::io::image::{Decoded, PictureFolder, Planes};
use portray::low_level::io::place::check_no_input;
use portray::low_level::io::{Place, SafeTensors, Tensor, files};
use portray::{Engine, Error, Result, VisionModel};

use super::args::{EmbedArgs, Global};
use super::{tensors, terminal};

/// Images and texts, ready to be embedded.
#[derive(Default)]
struct Inputs {
    images: Option<Vec<Planes>>,
    /// Token ids of texts.
    texts: Option<Vec<Vec<u32>>>,
}

/// Tensor to write: name, shape, values.
type Named = (&'static str, Vec<usize>, Vec<f32>);

/// Reads, embeds, writes.
pub fn run(global: &Global, args: &EmbedArgs) -> Result<()> {
    if args.pictures.is_empty() && args.text.is_empty() && args.input.is_none() {
        let problem =
            option("pictures") + ", " + option("text") + " or " + option("input") + ": give something to embed";
        return Err(Error::usage("pictures", problem));
    }
    check_out(&args.out)?;
    let place = Place::file(&args.out, args.force);
    place.check()?;
    let mut read: Vec<(&'static str, &Path)> = vec![("vision", &args.vision)];
    read.extend(args.pictures.iter().map(|path| ("pictures", path.as_path())));
    read.extend(args.input.as_deref().map(|path| ("input", path)));
    check_no_input(("out", &args.out), &read)?;
    let lock = place.lock(|text| terminal::warn(global.json, &text))?;
    place.check()?;

    let model = VisionModel::open(&args.vision)?;
    let mut inputs = args.input.as_ref().map_or(Ok(Inputs::default()), |path| given(&model, path))?;
    let file = args.input.as_deref().unwrap_or(Path::new("")).display();
    if inputs.images.is_some() && !args.pictures.is_empty() {
        let problem = format!(" holds pixels, and images are given: give one of them ({file})");
        return Err(Error::usage("input", option("input") + problem));
    }
    if inputs.texts.is_some() && !args.text.is_empty() {
        let problem = option("input") + " holds input_ids, and " + option("text") + " is given: give one of them";
        return Err(Error::usage("input", problem + format!(" ({file})")));
    }
    let from_files = !args.pictures.is_empty();
    if from_files {
        inputs.images = Some(prepared(global, &model, &args.pictures)?);
    }
    if !args.text.is_empty() {
        inputs.texts = Some(tokens(global, &model, &args.text)?);
    }
    let engine = super::device::open(global)?;
    let mut made = pollster::block_on(embed(&engine, &model, &inputs))?;
    made.extend(inputs.images.filter(|_| from_files).and_then(|images| stacked(global, &images)));
    let written = tensors::write(global, &place, &made);
    drop(lock);
    written
}

/// Endings of formats in which embeddings or images are kept elsewhere.
const OTHERS: [&str; 12] = ["png", "jpg", "jpeg", "webp", "json", "csv", "txt", "npy", "npz", "pt", "bin", "parquet"];

/// Refuses a folder, and a name that says another format.
fn check_out(out: &Path) -> Result<()> {
    let shown = out.display();
    if files::is_folder(out) || out.as_os_str().as_encoded_bytes().ends_with(b"/") {
        let named = out.join("embeddings.safetensors");
        let problem = format!("is a folder: name a file in it, such as {}", named.display());
        return Err(Error::value("out", shown, problem));
    }
    // Other endings are part of the name, because versions have dots in them.
    let other = out.extension().and_then(|ending| OTHERS.iter().find(|other| ending.eq_ignore_ascii_case(other)));
    match other {
        Some(_) => {
            let named = out.with_extension("safetensors");
            let problem = format!("embeddings are written as .safetensors: name it {}", named.display());
            Err(Error::value("out", shown, problem))
        }
        None => Ok(()),
    }
}

/// The tensors of the file at `path` that are embedded.
fn given(model: &VisionModel, path: &Path) -> Result<Inputs> {
    let file = SafeTensors::open(path)?;
    let images = file.find("pixels").map(|tensor| pixels(model, &tensor)).transpose()?;
    let texts = file.find("input_ids").map(|tensor| input_ids(model, &tensor)).transpose()?;
    if images.is_none() && texts.is_none() {
        let message = "holds neither pixels [n, channels, height, width] nor input_ids [n, tokens]: nothing to embed";
        return Err(Error::file(path, message));
    }
    Ok(Inputs { images, texts })
}

fn pixels(model: &VisionModel, tensor: &Tensor<'_>) -> Result<Vec<Planes>> {
    let &[n, channels, height, width] = tensor.shape.as_ref() else {
        return Err(tensor.error(format!("is {:?}: expected [n, channels, height, width]", tensor.shape)));
    };
    if n * channels * height * width == 0 {
        return Err(tensor.error(format!("is {:?}: it holds no image", tensor.shape)));
    }
    let values = tensor.to_finite_numbers()?;
    let image = |values: &[f32]| Planes { channels, height, width, values: values.to_vec() };
    let images: Vec<Planes> = values.chunks_exact(channels * height * width).map(image).collect();
    images.first().map_or(Ok(()), |image| model.check(image)).map_err(|e| tensor.error(e))?;
    Ok(images)
}

fn input_ids(model: &VisionModel, tensor: &Tensor<'_>) -> Result<Vec<Vec<u32>>> {
    model.check_text()?;
    let &[n, tokens] = tensor.shape.as_ref() else {
        return Err(tensor.error(format!("is {:?}: expected [n, tokens]", tensor.shape)));
    };
    let most = model.text_tokens();
    if n == 0 || tokens == 0 || tokens > most {
        return Err(tensor.error(format!("is {:?}: expected 1 to {most} tokens a text", tensor.shape)));
    }
    let (ids, known) = (tensor.to_i64()?, model.vocabulary() as i64);
    if let Some(id) = ids.iter().find(|id| !(0..known).contains(*id)) {
        return Err(tensor.error(format!("holds {id}: ids are 0 to {}", known - 1)));
    }
    Ok(ids.chunks_exact(tokens).map(|row| row.iter().map(|id| *id as u32).collect()).collect())
}

/// Images of files and folders, prepared.
fn prepared(global: &Global, model: &VisionModel, paths: &[PathBuf]) -> Result<Vec<Planes>> {
    let mut images = Vec::with_capacity(paths.len());
    for path in paths {
        let pictures = if files::is_folder(path) {
            let folder = PictureFolder::open(path)?;
            folder.left_out(None).into_iter().for_each(|text| terminal::warn(global.json, &text));
            folder.pictures
        } else {
            vec![path.clone()]
        };
        for path in pictures {
            let image = Decoded::open(&path)?;
            let prepared = model.preprocess(&image).and_then(|image| model.check(&image).map(|()| image));
            images.push(prepared.map_err(|e| Error::file(&path, e.message()))?);
        }
    }
    Ok(images)
}

/// Token ids of `texts`. Says what of them is cut.
fn tokens(global: &Global, model: &VisionModel, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    model.check_text()?;
    if let Some(path) = texts.iter().find(|text| files::is_file(text)) {
        let problem = format!(": '{path}' is a file; images come before it on the command line");
        return Err(Error::usage("text", option("text") + problem));
    }
    let mut rows = Vec::with_capacity(texts.len());
    for (ids, cut) in model.tokenize(texts)? {
        if let Some(cut) = cut {
            let length = ids.len();
            terminal::warn(global.json, &format!("a text is longer than {length} tokens; this is cut: {cut}"));
        }
        rows.push(ids);
    }
    Ok(rows)
}

async fn embed(engine: &Engine, model: &VisionModel, inputs: &Inputs) -> Result<Vec<Named>> {
    let mut made = Vec::new();
    let named = |name, rows: Vec<Vec<f32>>| (name, vec![rows.len(), model.width()], rows.concat());
    if let Some(images) = &inputs.images {
        made.push(named("images", engine.embed_images(model, images).await?));
    }
    if let Some(texts) = &inputs.texts {
        made.push(named("texts", engine.embed_tokens(model, texts).await?));
    }
    Ok(made)
}

/// The prepared images as one tensor, where all are of one size.
fn stacked(global: &Global, images: &[Planes]) -> Option<Named> {
    let size = |image: &Planes| [image.channels, image.height, image.width];
    let first = images.first().map(size)?;
    if images.iter().any(|image| size(image) != first) {
        terminal::warn(global.json, "the prepared images differ in size: pixels are not written");
        return None;
    }
    let values = images.iter().flat_map(|image| &image.values).copied().collect();
    Some(("pixels", [images.len()].into_iter().chain(first).collect(), values))
}
