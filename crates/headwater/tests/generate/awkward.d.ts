// Made by `headwater generate types`. What is changed here is lost.
import type { UUID } from '@headwater/client/live';

type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue };

declare module '@headwater/client/live' {
    type Color = 'red' | 'it\'s \\ blue';
    type LiveErrorType = 'a' | 'b"c' | 'd\ne';
    type Nothing = never;
    interface _ {
        a: number | null;
    }
    interface _2faCode {
        "2fa": string | null;
        class_: string | null;
        default_: string | null;
        type_: string | null;
        _private: string | null;
        userId: string | null;
    }
    interface ArrayRecord {
        values: Array<string>;
        "2d": Array<number> | null;
    }
    interface Empty {
    }
    interface ItSATable {
        "with space": string | null;
        "quote\"d": string | null;
        "back\\slash": string | null;
        Ünïcode: string;
    }
    interface Part {
        id: number | null;
        at: string | null;
    }
    interface RecordRecord {
        id: number;
    }
    interface Species {
        id: number;
        big: number;
        small: number;
        bigs: Array<number>;
        exact: number | null;
        single: number | null;
        double: number | null;
        money: string | null;
        bits: string | null;
        bytes: string | null;
        inet: string | null;
        span: string | null;
        spans: string | null;
        day: string | null;
        at: string | null;
        clock: string | null;
        pause: string | null;
        place: string | null;
        doc: JsonValue | null;
        docb: JsonValue;
        xml: string | null;
        words: string | null;
        old: string | null;
        short: string | null;
        long: string | null;
        one: string | null;
        naming: string | null;
        mail: string;
        grade: number;
        grades: Array<number> | null;
        lives: { street: string | null; "house no": number | null; colour: Color | null; places: Array<string> | null } | null;
        lived: Array<{ street: string | null; "house no": number | null; colour: Color | null; places: Array<string> | null }> | null;
        colour: Color | null;
        colours: Array<Color> | null;
        which: LiveErrorType | null;
        never: Nothing | null;
        twice: number | null;
        vector: Array<number> | null;
    }
    interface TransactionRecord {
        id: number;
        note: string | null;
    }
    interface UserPerson {
        address_1: string | null;
        address1: string | null;
    }
    /**
     * A new record of the table `!!`.
     */
    interface New_ {
        a?: number | null;
    }
    /**
     * A new record of the table `2fa_codes`.
     */
    interface New_2faCode {
        "2fa"?: string | null;
        class_?: string | null;
        default_?: string | null;
        type_?: string | null;
        _private?: string | null;
        userId?: string | null;
    }
    /**
     * A new record of the table `arrays`.
     */
    interface NewArrayRecord {
        values: Array<string>;
        "2d"?: Array<number> | null;
    }
    /**
     * A new record of the table `empty`.
     */
    interface NewEmpty {
    }
    /**
     * A new record of the table `it's a * / table`.
     */
    interface NewItSATable {
        "with space"?: string | null;
        "quote\"d"?: string | null;
        "back\\slash"?: string | null;
        Ünïcode: string;
    }
    /**
     * A new record of the table `parts`.
     */
    interface NewPart {
        id?: number | null;
        at?: string | null;
    }
    /**
     * A new record of the table `records`.
     */
    interface NewRecordRecord {
        id?: number;
    }
    /**
     * A new record of the table `species`.
     */
    interface NewSpecies {
        id?: number;
        big: number;
        small: number;
        bigs: Array<number>;
        exact?: number | null;
        single?: number | null;
        double?: number | null;
        money?: string | null;
        bits?: string | null;
        bytes?: string | null;
        inet?: string | null;
        span?: string | null;
        spans?: string | null;
        day?: string | null;
        at?: string | null;
        clock?: string | null;
        pause?: string | null;
        place?: string | null;
        doc?: JsonValue | null;
        docb: JsonValue;
        xml?: string | null;
        words?: string | null;
        old?: string | null;
        short?: string | null;
        long?: string | null;
        one?: string | null;
        naming?: string | null;
        mail: string;
        grade?: number;
        grades?: Array<number> | null;
        lives?: { street: string | null; "house no": number | null; colour: Color | null; places: Array<string> | null } | null;
        lived?: Array<{ street: string | null; "house no": number | null; colour: Color | null; places: Array<string> | null }> | null;
        colour?: Color | null;
        colours?: Array<Color> | null;
        which?: LiveErrorType | null;
        never?: Nothing | null;
        vector?: Array<number> | null;
    }
    /**
     * A new record of the table `transactions`.
     */
    interface NewTransactionRecord {
        note?: string | null;
    }
    /**
     * A new record of the table `user_people`.
     */
    interface NewUserPerson {
        address_1?: string | null;
        address1?: string | null;
    }

    interface TableRegistry {
        "!!": _;
        "2fa_codes": _2faCode;
        "arrays": ArrayRecord;
        "empty": Empty;
        "it's a */ table": ItSATable;
        "parts": Part;
        "records": RecordRecord;
        "species": Species;
        "transactions": TransactionRecord;
        "user_people": UserPerson;
    }

    interface NewRecordRegistry {
        "!!": New_;
        "2fa_codes": New_2faCode;
        "arrays": NewArrayRecord;
        "empty": NewEmpty;
        "it's a */ table": NewItSATable;
        "parts": NewPart;
        "records": NewRecordRecord;
        "species": NewSpecies;
        "transactions": NewTransactionRecord;
        "user_people": NewUserPerson;
    }
}
