// Made by `headwater generate types`. What is changed here is lost.
import type { UUID } from '@headwater/client/live';

type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue };

declare module '@headwater/client/live' {
    type Mood = 'calm' | 'busy';
    interface Invoice {
        id: UUID;
        totalCents: number;
        paidAt: string | null;
        mood: Mood;
        tags: Array<string>;
    }
    interface User {
        id: UUID;
        type_: string;
        number: number;
        balance: number;
        rate: number | null;
        height: number | null;
        isHere: boolean;
        data_: JsonValue | null;
        oldMoods: Array<Mood>;
    }
    /**
     * A new record of the table `invoices`.
     */
    interface NewInvoice {
        id?: UUID;
        totalCents: number;
        paidAt?: string | null;
        mood: Mood;
        tags: Array<string>;
    }
    /**
     * A new record of the table `users`.
     */
    interface NewUser {
        id?: UUID;
        type_: string;
        number?: number;
        balance?: number;
        rate?: number | null;
        height?: number | null;
        isHere?: boolean;
        data_?: JsonValue | null;
        oldMoods?: Array<Mood>;
    }

    interface TableRegistry {
        "invoices": Invoice;
        "users": User;
    }

    interface NewRecordRegistry {
        "invoices": NewInvoice;
        "users": NewUser;
    }
}
