// Loads a structured report with the published code of OHIF's SR extension, of Cornerstone's adapters and of dcmjs,
// and prints as JSON what each of them would draw. Usage: node read_report.mjs REPORT IMAGE...
// It runs in the folder that holds node_modules. The viewer around OHIF's extension is played by the objects below.
import { Module, createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(import.meta.url);
for (const name of ["log", "warn", "info"]) console[name] = (...words) => console.error(name, ...words.map(String));

const core = await import("@cornerstonejs/core");
const adapters = await import("@cornerstonejs/adapters");
const glMatrix = await import("gl-matrix");
const dcmjs = require("dcmjs");

function read(path) {
  const { buffer, byteOffset, length } = readFileSync(path);
  const { dict } = dcmjs.data.DicomMessage.readFile(buffer.slice(byteOffset, byteOffset + length));
  return dcmjs.data.DicomMetaDictionary.naturalizeDataset(dict);
}

const [report, ...images] = process.argv.slice(2).map(read);
const PREFIX = "wadors:";
const idOf = (image) => PREFIX + image.SOPInstanceUID;
const uidOf = (id) => id.slice(PREFIX.length);

/* Image coordinates stay as they are: the plane has one unit a pixel, and pixel centres have whole numbers. */
const plane = ({ Rows: rows, Columns: columns, SOPInstanceUID: frameOfReferenceUID }) => ({
  frameOfReferenceUID, rows, columns, rowPixelSpacing: 1, columnPixelSpacing: 1, imagePositionPatient: [0, 0, 0],
  rowCosines: [1, 0, 0], columnCosines: [0, 1, 0], imageOrientationPatient: [1, 0, 0, 0, 1, 0],
});
core.metaData.addProvider((type, id) => {
  const image = images.find((one) => idOf(one) === id);
  return image && { instance: image, imagePlaneModule: plane(image) }[type];
});

const drawn = [];
const nothing = new Proxy(function () {}, {
  get: (_, key) => (key === Symbol.toPrimitive ? () => "" : nothing), apply: () => nothing, construct: () => nothing,
});
const SR = "1.2.840.10008.5.1.4.1.1.88.";
const utils = {
  guid: () => "display-set",
  sopClassDictionary: {
    BasicTextSR: `${SR}11`, EnhancedSR: `${SR}22`, ComprehensiveSR: `${SR}33`, Comprehensive3DSR: `${SR}34`,
  },
  sortStudyInstances: (list) => list,
  sortDisplaySetsCopy: (list) => [...list],
};
class MetadataProvider {
  static getUIDsFromImageID(id) { return { SOPInstanceUID: uidOf(id) }; }
}
const surroundings = {
  "@ohif/core": { utils, classes: { MetadataProvider }, DicomMetadataStore: nothing, default: { utils, log: nothing } },
  "@ohif/extension-cornerstone": { Enums: {} },
  "@cornerstonejs/adapters": adapters,
  "@cornerstonejs/core": core,
  "@cornerstonejs/tools": {
    annotation: { state: { addAnnotation: (one) => drawn.push(one) } }, AnnotationTool: class {},
  },
  "gl-matrix": glMatrix,
};
const load = Module._load;
Module._load = (name, parent, isMain) => {
  if (name in surroundings) return surroundings[name];
  return parent?.filename?.includes("extension-cornerstone-dicom-sr") ? nothing : load(name, parent, isMain);
};
const displaySets = images.map((image) => ({ displaySetInstanceUID: image.SOPInstanceUID, images: [image] }));
const servicesManager = { services: {
  displaySetService: { activeDisplaySets: displaySets, EVENTS: {}, subscribe: () => {} },
  measurementService: { getSourceMappings: () => [{ annotationType: "RectangleROI" }] },
  customizationService: { getCustomization: () => undefined },
} };
const extensionManager = { getDataSources: () => [{ getImageIdsForDisplaySet: (set) => set.images.map(idOf) }] };

const extension = require("@ohif/extension-cornerstone-dicom-sr").default;
const [handler] = extension.getSopClassHandlerModule({ servicesManager, extensionManager });
const [displaySet] = handler.getDisplaySetsFromSeries([report]);
await displaySet.load();

const places = Object.fromEntries(images.map((image) => [`${image.SOPInstanceUID}:1`, idOf(image)]));
const hydrated = adapters.adaptersSR.Cornerstone3D.MeasurementReport.generateToolState(report, places, core.metaData);
const tools = dcmjs.adapters.Cornerstone.MeasurementReport.generateToolState(report);
const box = (points) => [Math.min(...points.map(([x]) => x)), Math.min(...points.map(([, y]) => y)),
  Math.max(...points.map(([x]) => x)), Math.max(...points.map(([, y]) => y))];

process.stdout.write(JSON.stringify({
  ohif: {
    sopClassIsRead: handler.sopClassUids.includes(report.SOPClassUID),
    referencedImages: displaySet.referencedImages.map((one) => one.ReferencedSOPInstanceUID),
    measurements: displaySet.measurements.length,
    boxes: drawn.map(({ metadata, data }) => [uidOf(metadata.referencedImageId), ...box(data.renderableData.POLYLINE[0])]),
  },
  cornerstone: Object.values(hydrated).flat().map(({ sopInstanceUid, annotation }) =>
    [sopInstanceUid, ...box(annotation.data.handles.points)]),
  dcmjs: Object.values(tools).flat().map(({ sopInstanceUid, handles: { start, end } }) =>
    [sopInstanceUid, start.x, start.y, end.x, end.y]),
}));
