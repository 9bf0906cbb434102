            // One row m of a tile's epilogue: accumulators c{i}_{j} (or with packed_ components of c{i}_{v}) of columns
            // n{j}: groups of four, GN apart from n_first on. Columns beyond p.n are not stored.
            //% set cols = (TN // 2) if geglu else TN
            let row = batch * p.out_batch + m * p.n;
            //% if add == "sample"
            let sample = (m / p.rows_per_sample) * p.add_stride + p.add_offset;
            //% endif
            //% for j in range(TN)
            var v{{ j }} = p.alpha * {{ "c" ~ i ~ "_" ~ (j // 4) ~ "." ~ xyzw[j % 4] if packed_ else "c" ~ i ~ "_" ~ j }}{{ " + bias" ~ j if bias else "" }};
            //% if add == "full" and not out_vec
            v{{ j }} += add_at(row + n{{ j }});
            //% elif add == "sample"
            v{{ j }} += add_at(sample + n{{ j }});
            //% endif
            //% if activation and not (add == "full" and out_vec)
            v{{ j }} = {{ activation }}(v{{ j }});
            //% endif
            //% endfor
            //% if geglu
            //% for j in range(cols)
            v{{ j }} *= gelu(v{{ j + cols }});
            //% endfor
            //% endif
            //% if out_vec
            //% for j in range(0, cols, 4)
            if n_first + {{ j // 4 * GN + j % 4 }}u < p.n {
                var whole = vec4<f32>(v{{ j }}, v{{ j + 1 }}, v{{ j + 2 }}, v{{ j + 3 }});
                //% if add == "full"
                whole += add_at4((row + n{{ j }}) >> 2u);
                //% if activation
                whole = vec4<f32>({{ activation }}(whole.x), {{ activation }}(whole.y), {{ activation }}(whole.z), {{ activation }}(whole.w));
                //% endif
                //% endif
                out_put4((row + n{{ j }}) >> 2u, whole);
            }
            //% endfor
            //% else
            //% for j in range(cols)
            if n_first + {{ j // 4 * GN + j % 4 }}u < p.n { out_put(row + n{{ j }}, v{{ j }}); }
            //% endfor
            //% endif
