// Verifies the messages *.eml of a folder with mailauth and prints one line of JSON for each.
//
// Key records come from dns.json in that folder, an object of texts by name. A line has the message's file, what became
// of each DKIM-Signature from the top, and of the ARC chain.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { dkimVerify } = require('mailauth/lib/dkim/verify');
const { arc } = require('mailauth/lib/arc');

const folder = process.argv[2];
const zone = JSON.parse(fs.readFileSync(path.join(folder, 'dns.json'), 'utf8'));

const resolver = async (name, type) => {
    const text = zone[name.toLowerCase()];
    if (text === undefined || type !== 'TXT') {
        throw Object.assign(new Error('no such record'), { code: 'ENOTFOUND' });
    }
    return [[text]];
};

const verify = async file => {
    const line = { file, dkim: [], arc: '', arc_why: '' };
    // Where mailauth throws, that is its answer.
    try {
        const found = await dkimVerify(fs.readFileSync(path.join(folder, file)), { resolver });
        for (const r of found.results) {
            const b = (r.signature || '').replace(/\s+/g, '');
            line.dkim.push({ d: r.signingDomain, s: r.selector, b, result: r.status.result, why: r.status.comment || '' });
        }
        const chain = await arc(found.arc, { resolver });
        line.arc = chain.status.result;
        line.arc_why = chain.status.comment || '';
    } catch (err) {
        line.dkim_why = String(err);
        line.arc = line.arc || 'fail';
        line.arc_why = line.arc_why || String(err);
    }
    return line;
};

(async () => {
    for (const file of fs.readdirSync(folder).filter(f => f.endsWith('.eml')).sort()) {
        console.log(JSON.stringify(await verify(file)));
    }
})();
