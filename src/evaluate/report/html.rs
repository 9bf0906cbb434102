//! The report as one page that needs no network.

use std::collections::BTreeMap;

use minijinja::Environment;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::evaluate::make::Role;
use crate::evaluate::measures::{Estimate, Figure};

use super::plots::{Row, dots};
use super::schema::{Column, Image, Report};

/// JPEGs of a report.
pub struct Thumbnails<'a> {
    /// Photos, large and small.
    pub photos: Vec<&'a [Vec<u8>; 2]>,
    /// Images by their file's name in the report's folder.
    pub images: BTreeMap<&'a str, &'a [u8]>,
}

/// Definition of a figure, and the direction that is good.
struct Meaning {
    figure: Figure,
    arrow: &'static str,
    short: &'static str,
    long: &'static str,
}

const MEANINGS: [Meaning; 8] = [
    Meaning {
        figure: Figure::Dino,
        arrow: "↑",
        short: "likeness to the photos",
        long: "Mean cosine of the DINO embeddings of images and photos. Good is what the photos reach among themselves; above \
               it, images repeat the photos.",
    },
    Meaning {
        figure: Figure::Colour,
        arrow: "↑",
        short: "likeness to the photos, by colour",
        long: "Mean cosine of the colours of images and photos, backgrounds left out. Good is what the photos reach among \
               themselves.",
    },
    Meaning {
        figure: Figure::ClipI,
        arrow: "↑",
        short: "likeness to the photos, by CLIP",
        long: "Mean cosine of the CLIP embeddings of images and photos.",
    },
    Meaning {
        figure: Figure::ClipT,
        arrow: "↑",
        short: "fidelity to the prompt",
        long: "Mean cosine of the CLIP embeddings of images and of their prompts without the identifier. Good is what the \
               base model reaches.",
    },
    Meaning {
        figure: Figure::Pres,
        arrow: "↓",
        short: "class images like the photos",
        long: "Mean cosine of class images and photos. Above the base model's, other members of the class take on the \
               subject's looks.",
    },
    Meaning {
        figure: Figure::Div,
        arrow: "↑",
        short: "diversity within a prompt",
        long: "Mean of 1 - cosine of two images of one prompt, in the space of the likeness. The paper's DIV is LPIPS: do not \
               compare the numbers.",
    },
    Meaning {
        figure: Figure::Drift,
        arrow: "↓",
        short: "change of class images",
        long: "Mean of 1 - cosine of a class image and the base model's of the same seed. 0: nothing changed.",
    },
    Meaning {
        figure: Figure::DriftUnrelated,
        arrow: "↓",
        short: "change of unrelated images",
        long: "Mean of 1 - cosine of an image of a prompt that has nothing to do with the subject and the base model's of the \
               same seed.",
    },
];

#[derive(Serialize)]
struct View<'a> {
    report: &'a Report,
    size: String,
    heads: Vec<&'a str>,
    rows: Vec<TableRow>,
    plots: Vec<Plot>,
    photos: Vec<Shown>,
    columns: Vec<ColumnView<'a>>,
}

#[derive(Serialize)]
struct TableRow {
    name: &'static str,
    arrow: &'static str,
    short: &'static str,
    long: &'static str,
    cells: Vec<Cell>,
}

#[derive(Serialize)]
struct Cell {
    mean: String,
    error: Option<String>,
}

#[derive(Serialize)]
struct Plot {
    caption: String,
    svg: String,
}

#[derive(Serialize)]
struct Shown {
    src: String,
    href: Option<String>,
    alt: String,
}

#[derive(Serialize)]
struct ColumnView<'a> {
    name: &'a str,
    verdicts: &'a [String],
    by_prompt: Option<Plot>,
    images: Vec<ImageView>,
    others: Vec<ImageView>,
}

#[derive(Serialize)]
struct ImageView {
    image: Shown,
    base: Option<Shown>,
    photo: Option<Shown>,
    prompt: String,
    seed: u64,
    said: String,
    copies: bool,
}

/// Renders the report with `thumbnails` inside.
///
/// # Errors
/// [`Error::Internal`] if the page's template is wrong.
pub fn page(report: &Report, thumbnails: &Thumbnails<'_>) -> Result<String> {
    let among = (!report.among_photos.is_empty()).then_some("photos");
    let view = View {
        report,
        size: format!("{} x {}", report.size[0], report.size[1]),
        heads: among.into_iter().chain(report.columns.iter().map(|column| &*column.name)).collect(),
        rows: MEANINGS.iter().filter_map(|meaning| table_row(report, meaning)).collect(),
        plots: MEANINGS.iter().filter_map(|meaning| plot(report, meaning)).collect(),
        photos: (0..thumbnails.photos.len()).filter_map(|i| photo(thumbnails, i, 0)).collect(),
        columns: report.columns.iter().skip(1).map(|column| view_of(report, column, thumbnails)).collect(),
    };
    let failed = |e: minijinja::Error| Error::Internal(format!("the report's template: {e}"));
    let mut environment = Environment::new();
    environment.add_template("report.html", include_str!("report.html")).map_err(failed)?;
    environment.get_template("report.html").and_then(|template| template.render(&view)).map_err(failed)
}

fn cell(estimate: Option<&Estimate>) -> Cell {
    let error = estimate.and_then(|e| e.standard_error).map(|error| format!("± {error:.3}"));
    Cell { mean: estimate.map_or_else(|| "–".into(), |e| format!("{:.3}", e.mean)), error }
}

fn table_row(report: &Report, meaning: &Meaning) -> Option<TableRow> {
    let Meaning { figure, arrow, short, long } = *meaning;
    let photos = (!report.among_photos.is_empty()).then(|| report.among_photos.get(&figure));
    let all = photos.into_iter().chain(report.columns.iter().map(|column| column.figures.get(&figure)));
    let all: Vec<Option<&Estimate>> = all.collect();
    let cells = all.iter().map(|estimate| cell(*estimate)).collect();
    let is_there = all.iter().any(Option::is_some);
    is_there.then_some(TableRow { name: figure.name(), arrow, short, long, cells })
}

/// Plot of a figure over all columns.
fn plot(report: &Report, meaning: &Meaning) -> Option<Plot> {
    let of = |column: &Column| {
        let value = *column.figures.get(&meaning.figure)?;
        Some(Row { label: column.name.clone(), value, other: None })
    };
    let rows: Vec<Row> = report.columns.iter().filter_map(of).collect();
    let mark = report.among_photos.get(&meaning.figure).map(|estimate| estimate.mean);
    let (name, short) = (meaning.figure.name(), meaning.short);
    let listed: Vec<String> = rows.iter().map(|row| format!("{} {:.3}", row.label, row.value.mean)).collect();
    let photos = mark.map(|mark| format!("; photos among themselves {mark:.3}")).unwrap_or_default();
    let svg = dots(&rows, mark, &format!("{name}, {short}: {}{photos}", listed.join(", ")));
    let line = if mark.is_some() { " (line: photos among themselves)" } else { "" };
    (!rows.is_empty()).then(|| Plot { caption: format!("{name} {}: {short}{line}", meaning.arrow), svg })
}

fn view_of<'a>(report: &Report, column: &'a Column, thumbnails: &Thumbnails<'_>) -> ColumnView<'a> {
    let (mut images, mut others): (Vec<&Image>, Vec<&Image>) =
        column.images.iter().partition(|image| image.role == Role::Subject);
    let score = |image: &Image| image.likeness * image.prompt_fidelity.map_or(1.0, |fidelity| fidelity.max(0.0));
    let change = |image: &Image| image.base.as_ref().map_or(0.0, |base| base.change);
    images.sort_by(|a, b| score(a).total_cmp(&score(b)));
    others.sort_by(|a, b| change(b).total_cmp(&change(a)));
    let view = |image: &&Image| image_view(report, image, thumbnails);
    ColumnView {
        name: &column.name,
        verdicts: &column.verdicts,
        by_prompt: by_prompt(report, column),
        images: images.iter().map(view).collect(),
        others: others.iter().map(view).collect(),
    }
}

/// Plot of likeness by prompt, the least alike first, with the base model's as hollow dots.
fn by_prompt(report: &Report, column: &Column) -> Option<Plot> {
    let likeness = |column: &Column, prompt: usize| {
        let own = column.prompts.iter().find(|own| own.prompt == prompt)?;
        own.figures.get(&Figure::Dino).or_else(|| own.figures.get(&Figure::Colour)).copied()
    };
    let row = |prompt: usize| {
        let value = likeness(column, prompt)?;
        let other = report.columns.first().and_then(|base| likeness(base, prompt)).map(|base| base.mean);
        Some((prompt, Row { label: report.prompts[prompt].text.clone(), value, other }))
    };
    let mut rows: Vec<(usize, Row)> = (0..report.prompts.len()).filter_map(row).collect();
    rows.sort_by(|a, b| a.1.value.mean.total_cmp(&b.1.value.mean));
    let listed = rows.iter().map(|(prompt, row)| {
        let base = row.other.map(|other| format!(" (base model {other:.3})")).unwrap_or_default();
        format!("{} {:.3}{base}", report.prompts[*prompt].text, row.value.mean)
    });
    let alt = format!("Likeness by prompt: {}", listed.collect::<Vec<_>>().join(", "));
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    let mark = report.among_photos.values().next().map(|estimate| estimate.mean);
    let caption = "Likeness by prompt, the least alike first; hollow: base model".to_owned();
    (!rows.is_empty()).then(|| Plot { caption, svg: dots(&rows, mark, &alt) })
}

fn image_view(report: &Report, image: &Image, thumbnails: &Thumbnails<'_>) -> ImageView {
    let prompt = match image.role {
        Role::Subject => report.prompts[image.prompt].text.clone(),
        Role::Class => report.class_prompt.clone().unwrap_or_default(),
        Role::Unrelated => report.unrelated_prompts[image.prompt].clone(),
    };
    let shown = |file: &str, whose: &str| {
        let bytes = thumbnails.images.get(file)?;
        let alt = format!("{whose} of \"{prompt}\", seed {}", image.seed);
        Some(Shown { src: data(bytes), href: Some(file.to_owned()), alt })
    };
    let missing = Shown { src: String::new(), href: Some(image.file.clone()), alt: "not there".into() };
    let mut said = vec![format!("likeness {:.3}", image.likeness)];
    said.extend(image.base.as_ref().map(|base| format!("base model {:.3}", base.likeness)));
    said.extend(image.prompt_fidelity.map(|fidelity| format!("prompt {fidelity:.3}")));
    said.extend(image.base.as_ref().map(|base| format!("change {:.3}", base.change)));
    let photo = image.nearest.as_ref().filter(|_| image.role == Role::Subject);
    ImageView {
        image: shown(&image.file, "Image").unwrap_or(missing),
        base: image.base.as_ref().and_then(|base| shown(&base.file, "The base model's image")),
        photo: photo.and_then(|nearest| {
            said.push(format!("nearest photo {:.3}", nearest.likeness));
            photo_beside(thumbnails, nearest.photo)
        }),
        prompt,
        seed: image.seed,
        said: said.join(" · "),
        copies: image.copies,
    }
}

fn photo_beside(thumbnails: &Thumbnails<'_>, index: usize) -> Option<Shown> {
    let shown = photo(thumbnails, index, 1)?;
    Some(Shown { alt: format!("Nearest photo: number {}", index + 1), ..shown })
}

/// Photo number `index` in one of two sizes.
fn photo(thumbnails: &Thumbnails<'_>, index: usize, size: usize) -> Option<Shown> {
    let bytes = &thumbnails.photos.get(index)?[size];
    Some(Shown { src: data(bytes), href: None, alt: format!("Photo {} of the subject", index + 1) })
}

/// JPEG as a data URI.
fn data(jpeg: &[u8]) -> String {
    format!("data:image/jpeg;base64,{}", base64::encode(jpeg))
}
