# Puts the pages of web/ and Debian's JavaScript libraries into the binary.
#
# Included, it offers slipstream_embed_assets(TARGET). Run as a script it does the work:
#   cmake -DWEB=web -DSTAGE=folder [-DOUT=assets_data.cc] -P cmake/EmbedAssets.cmake
# STAGE gets every file as it is served and manifest.json, which says under which path and with
# which headers; OUT gets the same as C++ for src/server/assets.h.

if(CMAKE_SCRIPT_MODE_FILE)
  cmake_policy(SET CMP0007 NEW)
  cmake_policy(SET CMP0057 NEW)
endif()

set(EMBED_ASSETS_SCRIPT ${CMAKE_CURRENT_LIST_FILE})
set(EMBED_NODE /usr/share/nodejs)
# The languages that chat models write; each costs a few kB.
set(EMBED_LANGUAGES bash cmake cpp cs css diff dockerfile elixir go haskell http ini java javascript
  json julia kotlin less lisp lua makefile markdown matlab nginx objectivec ocaml perl php plaintext
  powershell protobuf python r ruby rust scala scss shell sql swift tex typescript xml yaml)
set(EMBED_CHART_JS /usr/share/javascript/chart.js/chart.min.js)
set(EMBED_VENDOR
  ${EMBED_NODE}/marked/lib/marked.esm.js
  ${EMBED_NODE}/highlight.js/lib/highlight.js
  ${EMBED_CHART_JS})
# The almanac's page also opens from disk, where a browser loads classic scripts but no modules. So its
# modules are joined into one script, each after those that it imports. They import by whole statements,
# export declarations, and share one space of top-level names.
set(EMBED_ALMANAC_MODULES shared/dom.js almanac/statistics.js almanac/points.js almanac/state.js
  almanac/labels.js almanac/choice.js almanac/filters.js almanac/chart_view.js almanac/table_view.js
  almanac/answer.js almanac/point_panel.js almanac/caveats.js almanac/summary.js almanac/main.js)

# The page runs its own files only and is never framed.
set(EMBED_PAGE_POLICY "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; \
img-src 'self' data: blob:; connect-src 'self'; frame-src 'self'; base-uri 'none'; \
form-action 'none'; frame-ancestors 'none'")
# What a model wrote runs here: an origin of its own, no network, no forms, no frames.
set(EMBED_PREVIEW_POLICY "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:; media-src data: blob:; font-src data:; \
base-uri 'none'; form-action 'none'; frame-ancestors 'self'")

function(slipstream_embed_assets target)
  find_program(SLIPSTREAM_GZIP gzip REQUIRED)
  foreach(file ${EMBED_VENDOR})
    if(NOT EXISTS ${file})
      message(FATAL_ERROR "${file} is missing: install node-marked, node-highlight.js and "
        "libjs-chart.js (tools/setup.sh build)")
    endif()
  endforeach()
  set(web ${PROJECT_SOURCE_DIR}/web)
  set(out ${CMAKE_CURRENT_BINARY_DIR}/assets_data.cc)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${web}/*.html ${web}/*.css ${web}/*.js ${web}/*.svg)
  add_custom_command(OUTPUT ${out}
    COMMAND ${CMAKE_COMMAND} -DWEB=${web} -DSTAGE=${CMAKE_BINARY_DIR}/web -DOUT=${out}
      -P ${EMBED_ASSETS_SCRIPT}
    DEPENDS ${sources} ${EMBED_VENDOR} ${EMBED_ASSETS_SCRIPT}
    COMMENT "Embedding web/" VERBATIM)
  target_sources(${target} PRIVATE ${out})
endfunction()

function(embed_join_modules out)
  set(joined "\"use strict\";\n(() => {\n")
  set(names "")
  foreach(module ${ARGN})
    file(READ ${WEB}/${module} text)
    string(REGEX REPLACE "(^|\n)import [^;]*;" "\\1" text "${text}")
    string(REGEX REPLACE "(^|\n)export " "\\1" text "${text}")
    string(APPEND joined "${text}")
    # Two functions of one name are no error of JavaScript's: the last would quietly be both.
    string(REGEX MATCHALL "\n(function|const|let|class) [A-Za-z0-9_]+" declared "\n${text}")
    foreach(declaration ${declared})
      string(REGEX REPLACE "^.* " "" name "${declaration}")
      if(name IN_LIST names)
        message(FATAL_ERROR "${module} declares ${name} as another module of the almanac does; rename it")
      endif()
      list(APPEND names ${name})
    endforeach()
  endforeach()
  file(WRITE ${out} "${joined}})();\n")
endfunction()

# Files of web/ and the vendored libraries, as they will be served.
function(embed_stage)
  file(REMOVE_RECURSE ${STAGE})
  file(GLOB_RECURSE sources RELATIVE ${WEB} ${WEB}/*.html ${WEB}/*.css ${WEB}/*.js ${WEB}/*.svg)
  foreach(source ${sources})
    configure_file(${WEB}/${source} ${STAGE}/${source} COPYONLY)
  endforeach()

  # Served joined, the modules themselves are of no use.
  file(GLOB modules ${STAGE}/almanac/*.js)
  file(REMOVE ${modules})
  embed_join_modules(${STAGE}/almanac/almanac.js ${EMBED_ALMANAC_MODULES})
  configure_file(${EMBED_CHART_JS} ${STAGE}/vendor/chart.js COPYONLY)

  file(READ ${EMBED_NODE}/marked/lib/marked.esm.js text)
  file(WRITE ${STAGE}/vendor/marked.js "${text}")

  # highlight.js comes as CommonJS: its core, and one function for each language.
  set(out ${STAGE}/vendor/highlight.js)
  file(READ ${EMBED_NODE}/highlight.js/lib/highlight.js text)
  file(WRITE ${out} "const module = {};\n(function (exports) {\n${text}\n})({});\n"
    "const hljs = module.exports;\n")
  foreach(language ${EMBED_LANGUAGES})
    file(READ ${EMBED_NODE}/highlight.js/lib/languages/${language}.js text)
    file(APPEND ${out} "${text}\nhljs.registerLanguage('${language}', module.exports);\n")
  endforeach()
  file(APPEND ${out} "export default hljs;\n")
endfunction()

function(embed_literal file var)
  file(READ ${file} hex HEX)
  string(LENGTH "${hex}" digits)
  math(EXPR size "${digits} / 2")
  string(REGEX REPLACE "(..)" "\\\\x\\1" escaped "${hex}")
  set(${var} "std::string_view(\"${escaped}\", ${size})" PARENT_SCOPE)
endfunction()

function(embed_write_tables)
  find_program(gzip gzip REQUIRED)
  set(types_html "text/html; charset=utf-8")
  set(types_css "text/css; charset=utf-8")
  set(types_js "text/javascript; charset=utf-8")
  set(types_svg "image/svg+xml")
  file(GLOB_RECURSE files RELATIVE ${STAGE} ${STAGE}/*)
  set(manifest "")
  set(rows "")
  foreach(file ${files})
    string(REGEX REPLACE "^.*\\." "" suffix ${file})
    set(path "/assets/${file}")
    if(file STREQUAL "playground/index.html")
      set(path "/")
    elseif(file STREQUAL "almanac/index.html")
      set(path "/almanac")
    endif()
    set(policy "${EMBED_PAGE_POLICY}")
    if(file MATCHES "preview_frame\\.html$")
      set(policy "${EMBED_PREVIEW_POLICY}")
    endif()
    file(SHA256 ${STAGE}/${file} hash)
    string(SUBSTRING ${hash} 0 32 hash)
    if(manifest)
      string(APPEND manifest ",\n")
    endif()
    string(APPEND manifest "{\"path\": \"${path}\", \"file\": \"${file}\", "
      "\"type\": \"${types_${suffix}}\", \"etag\": \"${hash}\", \"policy\": \"${policy}\"}")
    if(OUT)
      # One compressor run a file at build time; -n leaves the clock out, so builds are equal.
      execute_process(COMMAND ${gzip} -9nc ${STAGE}/${file} OUTPUT_FILE ${OUT}.gz
        COMMAND_ERROR_IS_FATAL ANY)
      embed_literal(${STAGE}/${file} plain)
      embed_literal(${OUT}.gz packed)
      string(APPEND rows "    {\"${path}\", \"${types_${suffix}}\", \"${hash}\",\n     \"${policy}\",\n"
        "     ${plain},\n     ${packed}},\n")
    endif()
  endforeach()
  file(WRITE ${STAGE}/manifest.json "[${manifest}]\n")
  if(OUT)
    file(REMOVE ${OUT}.gz)
    file(WRITE ${OUT} "// Generated by cmake/EmbedAssets.cmake from web/.\n"
      "#include \"server/assets.h\"\n\n#pragma GCC diagnostic ignored \"-Woverlength-strings\"\n\n"
      "namespace slipstream {\nnamespace {\nconst Asset kAssets[] = {\n${rows}};\n}  // namespace\n\n"
      "std::span<const Asset> embedded_assets() { return kAssets; }\n\n}  // namespace slipstream\n")
  endif()
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  get_filename_component(WEB ${WEB} ABSOLUTE)
  get_filename_component(STAGE ${STAGE} ABSOLUTE)
  embed_stage()
  embed_write_tables()
endif()
